"""Colour codes: exact inside their tolerance, and the colours are those of the specification."""

import numpy as np
import pytest
import torch

from lavin.errors import InputError
from lavin.tasks import codes
from lavin.tasks.geometry import DepthDefinition

GENERATOR = torch.Generator().manual_seed(0)


def random_ids(count: int, size=(2, 40, 48)) -> torch.Tensor:
    return torch.randint(count, size, generator=GENERATOR)


def disturb(clip: torch.Tensor, levels: int) -> torch.Tensor:
    """Move every channel by exactly +-levels at random: the edge of a tolerance."""
    sign = torch.randint(2, clip.shape, generator=GENERATOR) * 2 - 1
    return clip + sign * levels / 127.5


def levels_at(clip: torch.Tensor, y: int, x: int) -> list[int]:
    return codes.levels_from_clip(clip)[:, 0, y, x].round().int().tolist()


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two label maps split the pixels alike, with 0 meaning "none" in both."""
    pairs = torch.stack([a.flatten(), b.flatten()]).unique(dim=1)
    one_to_one = len(pairs[0].unique()) == pairs.shape[1] == len(pairs[1].unique())
    return one_to_one and all((x == 0) == (y == 0) for x, y in pairs.T.tolist())


def test_levels_survive_the_trip_through_the_model_range():
    levels = torch.arange(256)
    assert torch.equal(codes.levels_from_clip(codes.clip_from_levels(levels)).round().long(), levels)


@pytest.mark.parametrize(
    "mask", [torch.zeros(1, 8, 8), torch.ones(1, 8, 8), random_ids(2)], ids=["empty", "full", "any"]
)
def test_binary_is_exact_up_to_126_levels(mask):
    mask = mask.bool()
    clip = codes.encode_binary(mask)
    assert torch.equal(codes.decode_binary(disturb(clip, 126)), mask)
    towards_the_other = clip - clip.sign() * 126 / 127.5
    assert torch.equal(codes.decode_binary(towards_the_other), mask)
    assert not torch.equal(codes.decode_binary(clip - clip.sign() * 129 / 127.5), mask)


def test_binary_is_the_mean_rule_and_the_nearest_of_two_colours():
    levels = torch.randint(256, (3, 1, 50, 50), generator=GENERATOR)
    found = codes.decode_binary(codes.clip_from_levels(levels))
    # levels whose mean is exactly 127.5 cannot occur: three whole numbers never sum to 382.5
    assert torch.equal(found, levels.double().mean(0) >= 127.5)
    fore, back = (255, 0, 85), (0, 85, 85)
    distance = [(levels.double() - torch.tensor(c).view(3, 1, 1, 1)).square().sum(0) for c in (fore, back)]
    clear = (distance[0] - distance[1]).abs() > 1e-3
    found = codes.decode_binary(codes.clip_from_levels(levels), fore, back)
    assert torch.equal(found[clear], (distance[0] < distance[1])[clear])


def test_p63_has_63_colours_in_lexicographic_order_and_forgives_42_levels():
    assert len(set(codes.P63)) == 63 and list(codes.P63) == sorted(codes.P63) and (0, 0, 0) not in codes.P63
    numbers = random_ids(64)
    assert torch.equal(codes.decode_p63(disturb(codes.encode_p63(numbers), 42)), numbers)
    assert not torch.equal(codes.decode_p63(disturb(codes.encode_p63(numbers), 43)), numbers)


def blocks(rows=7, columns=9, side=10) -> torch.Tensor:
    """One instance per block, numbered in raster order from 1."""
    numbers = torch.arange(1, rows * columns + 1).view(1, rows, columns)
    return numbers.repeat_interleave(side, 1).repeat_interleave(side, 2)


def test_cell_colours_follow_the_place():
    clip = codes.encode_cells(blocks())
    for cell in range(63):
        row, column = divmod(cell, 9)
        assert levels_at(clip, 10 * row + 5, 10 * column + 5) == list(codes.P63[23 * cell % 63])
    shifted = codes.encode_cells(blocks(), offset=5)
    assert levels_at(shifted, 5, 15) == list(codes.P63[28])


def test_a_centroid_lies_in_the_middle_of_its_pixel():
    """Pixel 7 of 16 ends left of the middle, at 8; its centre 7.5 lies in column 4 of 9, its corner 7 in column 3."""
    pixel = torch.zeros(1, 14, 16, dtype=torch.long)
    pixel[0, 0, 7] = 1
    assert levels_at(codes.encode_cells(pixel), 0, 7) == list(codes.P63[23 * 4 % 63])


def test_cell_goes_on_to_the_next_free_cell_and_wraps_around():
    """Two things in the last cell: the larger keeps it, the smaller goes on to cell 0."""
    instances = torch.zeros(1, 70, 90, dtype=torch.long)
    instances[:, 62:66, 82:88] = 1
    instances[:, 66:70, 82:90] = 2
    clip = codes.encode_cells(instances)
    assert levels_at(clip, 68, 85) == list(codes.P63[23 * 62 % 63])
    assert levels_at(clip, 63, 85) == list(codes.P63[0])


@pytest.mark.parametrize("offset", [0, 17, 62])
def test_63_instances_come_back_at_the_edge_of_the_tolerance(offset):
    clip = codes.encode_cells(blocks(), offset)
    assert same_partition(codes.decode_cells(disturb(clip, 42)), blocks())


def test_of_64_instances_the_smallest_is_dropped():
    instances = blocks()
    instances[:, :10, :4] = 64  # four tenths of the first block
    kept = instances.masked_fill(instances == 64, 0)
    assert same_partition(codes.decode_cells(codes.encode_cells(instances)), kept)


def test_cell_of_nothing_one_pixel_and_the_full_frame():
    nothing = torch.zeros(1, 40, 40, dtype=torch.long)
    assert not codes.decode_cells(codes.encode_cells(nothing)).any()
    pixel = nothing.clone()
    pixel[0, 39, 0] = 7
    assert torch.equal(codes.decode_cells(codes.encode_cells(pixel)), (pixel > 0).long())  # 1 / 1600 > 0.05 %
    assert torch.equal(codes.decode_cells(codes.encode_cells(nothing + 3)), nothing + 1)


def test_specks_are_no_instances():
    numbers = torch.zeros(1, 100, 100, dtype=torch.long)
    numbers[0, 0, :4] = 9  # 0.04 %
    numbers[0, 50, :5] = 20  # 0.05 %
    assert torch.equal(codes.decode_cells(codes.encode_p63(numbers)), (numbers == 20).long())


def test_a_clip_keeps_the_colour_of_the_first_frame_where_a_thing_shows():
    instances = torch.zeros(3, 70, 90, dtype=torch.long)
    instances[1, 10:20, 10:20] = 1  # appears in cell 10 ...
    instances[2, 60:70, 80:90] = 1  # ... and moves to cell 62
    levels = codes.levels_from_clip(codes.encode_cells(instances)).round()
    assert levels[:, 2, 65, 85].tolist() == levels[:, 1, 15, 15].tolist() == list(codes.P63[23 * 10 % 63])


def test_crowds_are_painted_black():
    instances = torch.zeros(1, 20, 20, dtype=torch.long)
    instances[:, :10] = -1
    instances[:, 15:] = 1
    assert torch.equal(codes.decode_cells(codes.encode_cells(instances)), instances.clamp(min=0))


def test_random_class_colours_forgive_42_levels():
    ids, colours = (0, 3, 4, 9, 200), (codes.P63[0], codes.P63[1], codes.P63[20], codes.P63[41], codes.P63[62])
    label = torch.tensor([*ids, 255])[random_ids(6)]
    clip = codes.encode_classes(label, ids, colours)
    assert torch.equal(codes.decode_classes(disturb(clip, 42), ids, colours), label)


def test_grid_is_painters_palette_and_forgives_20_levels():
    palette = codes.grid_palette(150)
    assert palette[:3] == ((255, 255, 255), (255, 255, 213), (255, 255, 171))
    assert palette[6] == (255, 213, 255) and palette[36] == (213, 255, 255) and len(set(palette)) == 150
    assert len(set(codes.grid_palette(64))) == 64  # 64 ** (1 / 3) is a little below 4 in floating point
    ids = tuple(range(150))
    label = random_ids(150)
    assert torch.equal(
        codes.decode_classes(disturb(codes.encode_classes(label, ids, palette), 20), ids, palette), label
    )


def room(seed=0) -> torch.Tensor:
    """Depth of a room, 0.7 ... 9 m: a floor, two walls and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:128]
    depth = np.minimum(60 / (y - 30).clip(8), 1 + 8 * np.abs(x - 20) / 108) + rng.uniform(0, 0.2, y.shape)
    return torch.from_numpy(depth.astype(np.float32)).unsqueeze(0).clamp(0.7)


def test_disparity_is_the_formula_of_the_specification():
    depth = room()
    depth[0, :10] = torch.nan
    levels = codes.levels_from_clip(codes.encode_disparity(depth)).round().numpy()
    p = 1 / depth.double().numpy()
    low, high = np.nanquantile(p, [0.005, 0.995])
    wanted = np.nan_to_num(np.round(255 * np.clip((p - low) / (high - low), 0, 1)))
    assert np.abs(levels - wanted).max() <= 1 and (levels == wanted).mean() > 0.999  # float32 against float64
    assert (levels[:, 0, :10] == 0).all()


@pytest.mark.parametrize("colour_map", codes.COLOUR_MAPS)
def test_disparity_reads_back_to_half_a_level(colour_map):
    depth = room()
    found = codes.decode_disparity(codes.encode_disparity(depth, colour_map), colour_map)
    error = (found - codes.normalise_disparity(depth)).abs()
    assert error.max() <= 1 / 510 + 1e-5


@pytest.mark.parametrize("use", [codes.encode_disparity, codes.decode_disparity, lambda _, name: DepthDefinition(name)])
def test_an_unknown_colour_map_is_answered_with_the_nearest(use):
    with pytest.raises(InputError, match="unknown colour map 'raimbow'; did you mean 'rainbow'\\? known: grey, "):
        use(torch.ones(3, 1, 4, 4) if use is codes.decode_disparity else torch.ones(1, 4, 4), "raimbow")


@pytest.mark.parametrize("colour_map", codes.COLOUR_MAPS)
def test_colour_maps_can_be_inverted(colour_map):
    assert len(codes.colour_table(colour_map).unique(dim=0)) == 256


def test_near_is_bright_and_one_lo_and_hi_serve_a_whole_clip():
    depth = torch.full((2, 8, 8), 2.0)
    depth[1] = 4.0
    levels = codes.levels_from_clip(codes.encode_disparity(depth))
    assert (levels[:, 0] == 255).all() and (levels[:, 1] == 0).all()


@pytest.mark.parametrize("depth", [torch.full((1, 4, 4), torch.nan), torch.full((1, 4, 4), 3.0)], ids=["none", "flat"])
def test_depth_without_a_range_is_still_a_picture(depth):
    assert codes.encode_disparity(depth).isfinite().all()


def unit_vectors(size=(2, 40, 40)) -> torch.Tensor:
    vectors = torch.randn((3, *size), generator=GENERATOR)
    return vectors / vectors.norm(dim=0)


@pytest.mark.parametrize("axes, signs", [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))])
def test_normals_come_back_within_their_tolerance(axes, signs):
    normals = unit_vectors()
    found = codes.decode_normals(codes.encode_normals(normals, axes, signs), axes, signs)
    angle = (found * normals).sum(0).clamp(-1, 1).double().arccos().rad2deg()
    assert angle.mean() < 0.2 and angle.max() < 0.4


def test_a_wall_is_blue_a_floor_green_and_nothing_is_grey():
    normals = torch.tensor([[0.0, 0, 0], [0, 1, 0], [1, 0, 0]]).view(3, 1, 1, 3)
    clip = codes.encode_normals(normals)
    found = [levels_at(clip, 0, i) for i in range(3)]
    assert found == [[128, 128, 255], [128, 255, 128], [128, 128, 128]]
    assert not codes.decode_normals(clip)[..., 2].any()


def test_permuted_normals_show_the_component_they_name():
    up = torch.tensor([0.0, 1, 0]).view(3, 1, 1, 1)
    assert levels_at(codes.encode_normals(up, (1, 2, 0), (-1, 1, 1)), 0, 0) == [0, 128, 128]
