"""Optical flow of the scenes by re-projection of points, and by where it leads."""

import numpy as np
import pytest
import torch

from lavin.data.scenes import Scenes
from tests.data.reference import distances, solids_of


@pytest.mark.parametrize("people", [False, True])
def test_flow_is_where_the_points_go(people):
    """Each pixel's point, carried by its solid and seen by the next camera, lies at pixel + flow (float64 loop).

    A person's limbs move on their own: the point's is the one on whose surface it lies; seams belong to two of them.
    """
    scenes = Scenes("train", size=(36, 48), frames=3, seed=8, people=people)
    moved = sky_pixels = limbs = 0
    for index in range(6):
        sample, layout = scenes[index], scenes.layout(index)
        things, places = len(scenes.vocabulary.things), layout.solids()
        K = sample.K.double().numpy()
        for frame in range(3):
            for row in range(1, 36, 4):
                for column in range(2, 48, 5):
                    z = float(sample.depth[frame, row, column])
                    sky = np.isnan(z)
                    sky_pixels += sky
                    ray = np.linalg.inv(K) @ (column + 0.5, row + 0.5, 1)
                    pose, later = np.eye(4), np.eye(4)
                    for matrix, when in ((pose, frame), (later, frame + 1)):
                        matrix[:3, :3], matrix[:3, 3] = layout.camera_rotation[when], layout.camera_position[when]
                    point = pose @ np.append(ray * (1 if sky else z), 0 if sky else 1)
                    owner = int(sample.panoptic[frame, row, column])
                    if owner:
                        solids = solids_of(layout, sample.instances[owner - 1].track_id)
                        away = np.abs(distances(layout, point[:3], frame, solids))
                        assert away.min() < 1e-3  # float32 depth of a few metres, seen at a slant
                        if (away < 2e-3).sum() > 1:
                            continue
                        solid = solids[away.argmin()]
                        before, after = np.eye(4), np.eye(4)
                        for matrix, when in ((before, frame), (after, frame + 1)):
                            matrix[:3, 3], matrix[:3, :3] = places[3][when, solid], places[4][when, solid]
                        point = after @ np.linalg.inv(before) @ point
                        moved += np.abs(after - before).max() > 1e-3
                        limbs += len(solids) > 1
                    elif sample.semantic[frame, row, column] < things:
                        assert not people
                        continue  # an object too small to be an instance
                    seen = K @ (np.linalg.inv(later) @ point)[:3]
                    expected = seen[:2] / seen[2] - (column + 0.5, row + 0.5)
                    np.testing.assert_allclose(sample.flow[:, frame, row, column].numpy(), expected, atol=3e-3)
    assert moved > 50 and sky_pixels > 20 and (limbs > 50) == people


@pytest.mark.parametrize("people", [False, True])
def test_flow_leads_to_the_same_object_in_the_next_frame(people):
    """Follow the flow of pixels well inside objects: 95 % arrive on the same object; the rest is occluded there."""
    arrived = total = 0
    for sample in Scenes(size=48, frames=4, seed=1, people=people).samples(range(6)):
        for instance in sample.instances:
            for frame in range(3):
                mask = instance.mask[frame]
                inner = -torch.nn.functional.max_pool2d(-mask[None, None].float(), 5, 1, 2)[0, 0] > 0
                row, column = inner.nonzero(as_tuple=True)
                u, v = sample.flow[:, frame, row, column]
                column, row = (column + u).round().long(), (row + v).round().long()
                kept = (row >= 0) & (row < 48) & (column >= 0) & (column < 48)
                arrived += int(instance.mask[frame + 1][row[kept], column[kept]].sum())
                total += int(kept.sum())
    assert total > 1000 and arrived > 0.95 * total
