"""Backbones for LPIPS without a download."""

from pathlib import Path

import pytest
import torch
import torchvision


@pytest.fixture
def random_squeezenet(tmp_path):
    """A SqueezeNet of random weights where torch.hub looks for the trained one; its distances mean nothing, but every
    other part of LPIPS is the real one."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    file = tmp_path / "checkpoints" / Path(weights.url).name
    file.parent.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), file)
    yield file
    torch.hub.set_dir(before)
