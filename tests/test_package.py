"""What a package owes its users: quick to import, complete, configurations found."""

import subprocess
import sys

import pytest

import lavin


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_import_and_help_leave_heavy_packages_alone():
    run(
        "import lavin, lavin.cli, sys\n"
        "assert lavin.cli.main(['--help']) == 0\n"
        "heavy = {'torch', 'torchvision', 'diffusers', 'scipy', 'cv2', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_reading_pairs_needs_no_torch():
    run("import sys; from lavin import load_pairs; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("name", lavin.__all__)
def test_public_names_exist(name):
    assert getattr(lavin, name) is not None
    assert name in dir(lavin)


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'LavinPipelin'"):
        lavin.LavinPipelin  # noqa: B018


def test_configurations_and_assets_are_found():
    assert lavin.config_dir().is_dir()
    assert lavin.assets_dir().is_dir()
