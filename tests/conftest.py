"""Tests run tiny networks, which are fastest on one thread and crawl when threads of busy cores wait for each other."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from lavin import STVAE, JDiT, LavinPipeline


def random_picture(seed, width=40, height=24):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="session")
def picture():
    """Makes noise pictures: ``picture(seed, width=40, height=24)``."""
    return random_picture


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A small random model's folder."""
    torch.manual_seed(0)
    stvae = STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    jdit = JDiT(latent_channels=4, hidden_size=64, num_layers=1, num_heads=2, attention="causal")
    for parameter in jdit.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    folder = tmp_path_factory.mktemp("models") / "small"
    LavinPipeline(stvae, jdit, sample_size=32, max_pairs=2).save_pretrained(folder)
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working folder with three pairs and a query, as a user has it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    for number, name in enumerate("abc"):
        random_picture(number).save(f"pairs/{name}_input.png")
        random_picture(10 + number).save(f"pairs/{name}_target.png")
    random_picture(20).save("img.png")
    return tmp_path


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
