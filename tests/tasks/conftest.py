"""A picture with every label, made of rectangles, so that each test knows the truth by construction."""

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
    return Sample(
        str(seed), torch.from_numpy(photo), instances=list(instances), semantic=semantic, depth=depth, normals=normals
    )


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
