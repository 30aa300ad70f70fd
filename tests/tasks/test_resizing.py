"""Labels at another size keep what they mean."""

import torch

from lavin.tasks import get_task
from lavin.tasks.skeleton import People


def test_flow_vectors_grow_with_the_picture():
    flow = torch.empty(2, 3, 4, 6)
    flow[0], flow[1] = 3.0, -2.0
    resized = get_task("optical_flow").resize(flow, (8, 18))
    assert resized.shape == (2, 3, 8, 18)
    torch.testing.assert_close(resized[0], torch.full((3, 8, 18), 9.0))  # three times as wide
    torch.testing.assert_close(resized[1], torch.full((3, 8, 18), -4.0))  # twice as high


def test_normals_stay_unit_vectors_and_joints_follow():
    normals = torch.nn.functional.normalize(torch.randn(3, 1, 5, 7), dim=0)
    length = get_task("normals").resize(normals, (11, 9)).norm(dim=0)
    assert ((length - 1).abs() < 1e-5).logical_or(length == 0).all()
    people = People(torch.tensor([[[2.0, 3.0, 2.0]] * 17]), torch.tensor([4.0]), torch.tensor([[0.0, 0, 2, 2]]), (4, 4))
    resized = get_task("pose").resize(people, (8, 12))
    assert resized["keypoints"][0, 0].tolist() == [6.0, 6.0, 2.0] and resized["area"].item() == 24.0
