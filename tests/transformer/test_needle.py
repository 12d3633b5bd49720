"""Where a needle lies."""

import numpy as np
import pytest

from transformer.needle import DEPTHS, HALF, MARGIN, SIZE, answer_of, ordinary_tokens, with_needle


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_needle_lies_at_its_depth_and_at_the_end(depth):
    window, words = np.arange(1000, 1300), np.arange(100, 200)
    found = with_needle(window, depth, words, 7)
    assert found.shape == window.shape
    places = np.flatnonzero(found < 1000)
    place = MARGIN + round(depth * (300 - 2 * SIZE - 2 * MARGIN))
    assert places.tolist() == [*range(place, place + SIZE), *range(300 - SIZE, 300)]
    needle = found[place : place + SIZE]
    np.testing.assert_array_equal(found[-SIZE:], needle)
    np.testing.assert_array_equal(found[found >= 1000], window[: 300 - 2 * SIZE])
    np.testing.assert_array_equal(needle, with_needle(window, 0.0, words, 7)[MARGIN : MARGIN + SIZE])
    assert np.any(needle != with_needle(window, 0.0, words, 8)[MARGIN : MARGIN + SIZE])
    np.testing.assert_array_equal(answer_of(found[1:]), needle[HALF:])


def test_a_window_may_be_too_short():
    with_needle(np.arange(160), 1.0, np.arange(5), 0)
    with pytest.raises(ValueError, match="--needle wants --lengths of 160 tokens or more, but got 159"):
        with_needle(np.arange(159), 1.0, np.arange(5), 0)


def test_needles_are_of_ordinary_tokens(tiny_llama):
    tokenizer = tiny_llama.tokenizer
    assert ordinary_tokens(tokenizer).tolist() == list(range(62))
