"""Templates read what was drawn, and no longer read what was blurred away."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lavin.tasks.captions import draw_strip, lay_out, least_capital
from lavin.tasks.legibility import read_strip, share_read

TEXTS = ("the second red box from the left", "Person in GREEN, no. 7", "largest torus behind the sphere")


@pytest.mark.parametrize("side", [128, 256])
def test_clean_strips_are_read_without_an_error(side):
    for text in TEXTS:
        layout = lay_out(text, side, side // 8, 2, least_capital(side))
        strip = draw_strip(layout, side, side // 8)
        assert read_strip(strip, layout) == layout.lines
        characters = sum(letter != " " for line in layout.lines for letter in line)
        assert share_read(strip, layout) == (characters, characters)


def test_blur_costs_characters_and_white_paper_all_but_few():
    layout = lay_out(TEXTS[0], 128, 16, 2, least_capital(128))
    strip = draw_strip(layout, 128, 16).astype(float)
    shares = [np.divide(*share_read(gaussian_filter(strip, sigma), layout)) for sigma in (0.3, 4)]
    assert shares[0] == 1 and shares[1] < 0.5
    assert np.divide(*share_read(np.full_like(strip, 255), layout)) < 0.2


def test_letters_that_join_are_refused():
    layout = lay_out("ab", 128, 16, 1, 8)
    with pytest.raises(ValueError, match="whose letters join"):
        read_strip(np.zeros((16, 128)), type(layout)(("שלום",), 8))
