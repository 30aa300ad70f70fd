"""What workers hold does not grow with what they have drawn."""

import sys

import pytest

from lavin.data.scenes import Scenes
from lavin.data.stream import ContextStream, Share
from lavin.evaluation.memory import worker_memory


@pytest.mark.skipif(sys.platform != "linux", reason="shared pages are told apart on Linux only")
def test_two_workers_hold_as_much_after_600_contexts_as_after_200():
    share = Share(Scenes("train", size=32), 1.0, {"depth": 1.0, "colorization": 1.0}, capacity=256)
    stream = ContextStream([share], ["depth", "colorization"], pairs=2)
    held = list(worker_memory(stream, workers=2, contexts=600))
    assert len(held) == 10 and held[-1][0] >= 600
    settled = [mib for drawn, mib in held if drawn >= 200]
    assert settled[0] > 20  # it is the workers that are measured
    assert max(settled) < settled[0] + 12  # 400 contexts kept would be 20 MiB, their scenes another 30
