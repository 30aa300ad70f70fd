import torch

from lavin.models.rope import axis_channels, coordinates, rotate, rotation


def scores(query, key, coords):
    """Attention scores of every query-key pair, (heads, tokens, tokens), in float64 of the rotated vectors."""
    rope = rotation(coords, query.shape[-1])
    q, k = rotate(query, rope).double(), rotate(key, rope).double()
    return torch.einsum("bqhd,bkhd->hqk", q, k)


def test_scores_depend_on_coordinate_differences_only():
    query, key = torch.randn(1, 12, 2, 24), torch.randn(1, 12, 2, 24)
    coords = coordinates(0, 3, 2, 2)
    shift = torch.tensor([7, 3, 5])
    torch.testing.assert_close(scores(query, key, coords), scores(query, key, coords + shift), atol=1e-4, rtol=0)
    moved = coords.clone()
    moved[0] += shift
    assert (scores(query, key, coords) - scores(query, key, moved)).abs().max() > 1e-2


def test_rotation_equals_complex_multiplication():
    """Channels i and i + head_dim / 2 as one complex number, times exp(i * angle), axis by axis in float64."""
    head_dim, coords = 20, torch.tensor([[4, 1, 9], [0, 2, 3]])
    x = torch.randn(1, 2, 3, head_dim)
    angles = []
    for axis, channels in enumerate(axis_channels(head_dim)):
        for i in range(channels // 2):
            angles.append(coords[:, axis].double() * 10000 ** (-2 * i / channels))
    turn = torch.polar(torch.ones(2, head_dim // 2, dtype=torch.float64), torch.stack(angles, 1))
    as_complex = torch.complex(x[..., : head_dim // 2].double(), x[..., head_dim // 2 :].double())
    expected = as_complex * turn[None, :, None]
    found = rotate(x, rotation(coords, head_dim))
    torch.testing.assert_close(found.double(), torch.cat((expected.real, expected.imag), -1), atol=1e-5, rtol=0)


def test_axes_share_the_head_as_the_release_does():
    assert axis_channels(72) == (24, 24, 24)
    assert axis_channels(64) == (24, 20, 20)
    assert sum(axis_channels(10)) == 10


def test_tables_keep_float32_for_bfloat16_queries():
    """A table rounded to bfloat16 would turn token 300 by an angle off by up to a radian."""
    coords = coordinates(300, 1, 1, 1)
    x = torch.randn(1, 1, 1, 12)
    exact, rounded = rotate(x, rotation(coords, 12)), rotate(x.bfloat16(), rotation(coords, 12))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.02)


def test_coordinates_run_frame_by_frame_and_row_by_row():
    assert coordinates(5, 2, 1, 2).tolist() == [[5, 0, 0], [5, 0, 1], [6, 0, 0], [6, 0, 1]]
