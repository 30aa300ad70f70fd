"""Pictures and clips with every label, made of rectangles and stick figures: each test knows the truth."""

import numpy as np
import pytest
import torch

from lavin.data.sample import Instance, Sample, Vocabulary
from lavin.tasks.selection import boxes

VOCABULARY = Vocabulary(things=("sphere", "box"), stuff=("ground", "sky"), colours=("red", "blue"))


def thing(mask: torch.Tensor, class_name="sphere", colour="red", distance_m=5.0, **more) -> Instance:
    class_id = VOCABULARY.classes.index(class_name)
    return Instance(class_id, class_name, mask, boxes(mask), colour=colour, distance_m=distance_m, **more)


def rectangle(y0: int, y1: int, x0: int, x1: int, size=(1, 64, 64)) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[:, y0:y1, x0:x1] = True
    return mask


def make_sample(instances=(), seed=0, size=(1, 64, 64)) -> Sample:
    """Random photo, depth 1 ... 10 m with an invalid sky, random normals; semantic from the instances."""
    rng = np.random.default_rng(seed)
    frames, height, width = size
    photo = rng.integers(256, size=(frames, height, width, 3), dtype=np.uint8)
    depth = torch.from_numpy(rng.uniform(1, 10, size).astype(np.float32))
    depth[:, : height // 8] = torch.nan
    normals = torch.from_numpy(rng.standard_normal((3, *size)).astype(np.float32))
    normals /= normals.norm(dim=0)
    normals[:, :, : height // 8] = 0
    semantic = torch.full(size, 2, dtype=torch.uint8)
    semantic[:, : height // 8] = 3
    for instance in instances:
        semantic[instance.mask] = instance.class_id
    panoptic = torch.zeros(size, dtype=torch.int32)
    for number, instance in enumerate(instances, start=1):
        panoptic[instance.mask] = number
    flow = torch.from_numpy(rng.normal(0, 3, (2, *size)).astype(np.float32))
    flow[:, :, : height // 8] = torch.nan
    return Sample(
        str(seed),
        torch.from_numpy(photo),
        instances=list(instances),
        semantic=semantic,
        panoptic=panoptic,
        depth=depth,
        normals=normals,
        flow=flow,
    )


FIGURE = np.array(
    [(0.5, 0.1), (0.65, 0.02), (0.35, 0.02), (0.8, 0.08), (0.2, 0.08)]  # nose, eyes, ears
    + [(0.75, 0.3), (0.25, 0.3), (0.92, 0.45), (0.08, 0.45), (1.0, 0.6), (0.0, 0.6)]  # shoulders, elbows, wrists
    + [(0.68, 0.6), (0.32, 0.6), (0.72, 0.8), (0.28, 0.8), (0.74, 1.0), (0.26, 1.0)]  # hips, knees, ankles
)
"""COCO's 17 joints of somebody who stands and looks at us: x and y as shares of the person's box."""


def person(x0: float, y0: float, x1: float, y1: float, size=(1, 64, 64), visible=None) -> Instance:
    """A standing figure that fills a box; ``visible`` lists the joints that are labelled, all of them by default."""
    corner, extent = np.array([x0, y0]), np.array([x1 - x0, y1 - y0])
    v = np.full(17, 2.0)
    if visible is not None:
        v[[joint for joint in range(17) if joint not in visible]] = 0
    keypoints = np.concatenate([corner + FIGURE * extent, v[:, None]], 1)
    mask = rectangle(*(round(value) for value in (y0, y1, x0, x1)), size)
    return thing(mask, "box", keypoints=torch.from_numpy(keypoints.astype(np.float32)))


@pytest.fixture
def vocabulary() -> Vocabulary:
    return VOCABULARY


@pytest.fixture
def sample() -> Sample:
    """Three things: a red sphere at the left, a large blue box in the middle, a small red box at the right, near."""
    return make_sample(
        [
            thing(rectangle(20, 32, 2, 14), "sphere", "red", 6.0),
            thing(rectangle(24, 56, 20, 44), "box", "blue", 5.0),
            thing(rectangle(50, 60, 50, 60), "box", "red", 2.0),
        ]
    )
