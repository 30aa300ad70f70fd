import pytest
import torch

from lavin.context import Context, Example, condition, unconditional
from lavin.errors import InputError


def latent(value, frames=1):
    return torch.full((2, 4, frames, 2, 2), float(value))


def test_condition_is_in_the_papers_order():
    frames = condition([(latent(1, 2), latent(2, 2)), (latent(3), latent(4))], latent(5))
    assert frames[0, 0, :, 0, 0].tolist() == [1, 1, 2, 2, 3, 4, 5]
    assert frames.shape == (2, 4, 7, 2, 2)


def test_unconditional_keeps_the_query_and_drops_the_pairs():
    query = torch.randn(2, 4, 3, 2, 2)
    frames = unconditional(query)
    assert not frames[:, :, 0].any()
    assert torch.equal(frames[:, :, 1:], query)


def test_clips_of_a_context_are_in_the_same_order():
    clips = [torch.full((3, 1, 2, 2), float(i)) for i in range(5)]
    context = Context([Example(clips[0], clips[1]), Example(clips[2], clips[3])], clips[4])
    assert [clip.mean().item() for clip in context.clips()] == [0, 1, 2, 3, 4]


def test_clips_of_unequal_size_are_refused_by_number():
    square, flat = torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 4, 8)
    Context([Example(square, square)], torch.zeros(3, 5, 8, 8))  # frames may differ: the task says how
    with pytest.raises(InputError, match="context pair 2: its target is 8x4, but the query is 8x8"):
        Context([Example(square, square), Example(square, flat)], square)
