"""LATTICE: class and instance in one colour, exact inside its tolerance."""

import pytest
import torch

from lavin.tasks.codes import levels_from_clip
from lavin.tasks.lattice import VOID, decode_lattice, digits_and_step, encode_lattice, lattice_colours


def label_of(classes: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return torch.where(classes < 0, VOID, 1000 * classes + numbers)


def blocks(rows: int, columns: int, side: int = 8) -> torch.Tensor:
    """Numbers 1 ... rows * columns of square blocks in raster order, (1, rows * side, columns * side)."""
    numbers = torch.arange(1, rows * columns + 1).view(1, rows, columns)
    return numbers.repeat_interleave(side, 1).repeat_interleave(side, 2)


def code(num_classes: int, things=None) -> tuple:
    ids = tuple(range(num_classes))
    return ids, tuple(things or [True] * num_classes), ids, num_classes


def same_segments(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two labels agree in classes, and in which pixels are one segment."""
    pairs = torch.stack([a.flatten(), b.flatten()]).unique(dim=1)
    one_to_one = len(pairs[0].unique()) == pairs.shape[1] == len(pairs[1].unique())
    return one_to_one and bool((pairs[0] // 1000 == pairs[1] // 1000).all())


def disturb(clip: torch.Tensor, levels: int) -> torch.Tensor:
    sign = torch.randint(2, clip.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return clip + sign * levels / 127.5


@pytest.mark.parametrize("n, m, step", [(1, 1, 85), (8, 2, 42), (9, 3, 28), (19, 3, 28), (133, 6, 14), (150, 6, 14)])
def test_digits_and_steps(n, m, step):
    assert digits_and_step(n) == (m, step)


@pytest.mark.parametrize("num_classes", [1, 8, 19, 27, 133, 150])
def test_every_class_and_number_has_a_colour_of_its_own_and_none_is_black(num_classes):
    classes, numbers = torch.arange(num_classes).repeat_interleave(27), torch.arange(27).repeat(num_classes)
    colours = lattice_colours(classes, numbers, num_classes)
    assert len(colours.unique(dim=0)) == 27 * num_classes
    assert colours.max() == 255 and colours.min() >= 0
    apart = torch.cdist(colours, colours, p=torch.inf)
    apart.fill_diagonal_(256)
    _, step = digits_and_step(num_classes)
    assert apart.min() == step and colours.amax(1).min() > step / 2


def test_colours_are_the_formulas():
    """Class 100 of 133 has base-6 digits 2, 4, 4; number 14 has base-3 digits 1, 1, 2: 255 - 14 * (3 d + o)."""
    (colour,) = lattice_colours(torch.tensor([100]), torch.tensor([14]), 133).tolist()
    assert colour == [255 - 14 * 7, 255 - 14 * 13, 255 - 14 * 14]


@pytest.mark.parametrize("num_classes, levels", [(19, 13), (133, 6), (150, 6)])
def test_labels_come_back_at_the_edge_of_the_tolerance(num_classes, levels):
    """Blocks of random classes, half of which are stuff, and some void."""
    generator = torch.Generator().manual_seed(num_classes)
    numbers = blocks(12, 14)
    drawn = torch.randint(-1, num_classes, (12 * 14 + 1,), generator=generator)
    things = torch.arange(num_classes) % 2 == 0
    classes = drawn[numbers]
    truth = label_of(classes, torch.where(things[classes.clamp(min=0)], numbers, 0))
    arguments = code(num_classes, things.tolist())
    clip = encode_lattice(truth, *arguments)
    assert same_segments(decode_lattice(clip, *arguments), truth)
    assert same_segments(decode_lattice(disturb(clip, levels), *arguments), truth)


def test_a_things_colour_says_where_it_is():
    """Of one class, on the 3 x 9 grid: the number is the cell."""
    numbers = blocks(3, 9)
    clip = encode_lattice(label_of(torch.zeros_like(numbers), numbers), *code(1))
    levels = levels_from_clip(clip).round()
    for cell in range(27):
        row, column = divmod(cell, 9)
        digits = cell // 9, cell // 3 % 3, cell % 3
        assert levels[:, 0, 8 * row + 4, 8 * column + 4].tolist() == [255 - 85 * digit for digit in digits]


def test_27_things_of_a_class_are_told_apart_and_of_28_the_parts():
    numbers = blocks(4, 7)
    truth = label_of(torch.zeros_like(numbers), numbers)
    all_28 = encode_lattice(truth, *code(2))
    assert len(all_28.flatten(1).unique(dim=1).T) == 27  # two things share a colour, but do not touch
    assert same_segments(decode_lattice(all_28, *code(2)), truth)
    fewer = label_of(torch.where(numbers > 27, VOID, 0), numbers)
    assert same_segments(decode_lattice(encode_lattice(fewer, *code(2)), *code(2)), fewer)


def test_a_thing_in_two_parts_is_one():
    numbers = torch.zeros(1, 20, 20, dtype=torch.long)
    numbers[:, :5], numbers[:, 15:], numbers[:, 5:15] = 1, 1, 2
    truth = label_of(torch.zeros_like(numbers), numbers)
    assert same_segments(decode_lattice(encode_lattice(truth, *code(3)), *code(3)), truth)


def test_stuff_is_one_segment_whatever_its_numbers_say():
    numbers = blocks(2, 2)
    truth = label_of(torch.ones_like(numbers), torch.zeros_like(numbers))
    arguments = code(2, [True, False])
    found = decode_lattice(encode_lattice(label_of(torch.ones_like(numbers), numbers), *arguments), *arguments)
    assert torch.equal(found, truth)


def test_void_crowds_and_unlisted_classes_are_black():
    label = torch.tensor([[[VOID, -2, 1001, 2001]]]).repeat_interleave(10, 1)  # -2 is a crowd of class 0
    arguments = (0, 1), (True, True), (0, 1), 3
    clip = encode_lattice(label, *arguments)
    assert (clip[..., [0, 1, 3]] == -1).all() and clip[..., 2].max() > 0
    assert (decode_lattice(clip, *arguments)[0, 0] // 1000).tolist() == [VOID, VOID, 1, VOID]


def test_nothing_one_pixel_and_the_full_frame():
    nothing = torch.full((1, 40, 40), VOID)
    arguments = code(19)
    assert (decode_lattice(encode_lattice(nothing, *arguments), *arguments) == VOID).all()
    pixel = nothing.clone()
    pixel[0, 39, 0] = 18
    for classes in (pixel, torch.full_like(nothing, 5)):
        truth = label_of(classes, torch.ones_like(classes))
        assert same_segments(decode_lattice(encode_lattice(truth, *arguments), *arguments), truth)


def test_specks_are_void():
    classes = torch.full((1, 100, 100), 0)
    classes[0, 50, :4] = 1  # 0.04 %
    classes[0, 70, :5] = 2  # 0.05 %
    truth = label_of(classes, torch.ones_like(classes))
    found = decode_lattice(encode_lattice(truth, *code(3)), *code(3))
    assert found[0, 50, 0] == VOID and found[0, 70, 0] // 1000 == 2


def test_a_permuted_code_uses_other_colours_and_reads_back():
    numbers = blocks(2, 4)
    truth = label_of((numbers - 1) % 4, numbers)
    permuted = (0, 1, 2, 3), (True,) * 4, (2, 0, 3, 1), 4
    clip = encode_lattice(truth, *permuted)
    assert not torch.equal(clip, encode_lattice(truth, *code(4)))
    assert same_segments(decode_lattice(clip, *permuted), truth)
