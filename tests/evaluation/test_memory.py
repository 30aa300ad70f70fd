"""What workers hold does not grow with what they have drawn."""

import numpy as np
import torch

from lavin.data.sample import Sample, Vocabulary
from lavin.data.stream import ContextStream, Share
from lavin.evaluation.memory import worker_memory


class Noise:
    """Endless pictures of 77 kB that cost nothing to make."""

    vocabulary = Vocabulary()

    def samples(self, indices):
        return [Sample(str(index), torch.from_numpy(self.picture(index))) for index in indices]

    @staticmethod
    def picture(index):
        return np.random.default_rng(index).integers(0, 256, (1, 160, 160, 3), np.uint8)


def test_two_workers_hold_as_much_after_1000_contexts_as_after_400():
    share = Share(Noise(), 1.0, {"colorization": 1.0}, capacity=256)
    stream = ContextStream([share], ["colorization"], pairs=2)
    held = list(worker_memory(stream, workers=2, contexts=1000))
    assert len(held) == 10 and held[-1][0] >= 1000
    settled = [mib for drawn, mib in held if drawn >= 400]
    assert settled[0] > 20  # it is the workers that are measured
    assert max(settled) < settled[0] + 40  # the 1,200 pictures drawn meanwhile are 88 MiB
