"""For which TPU programs are laid out."""

import pytest

from smyrf_jax import chips


def test_without_a_tpu_programs_are_for_the_smallest():
    assert chips.source_bytes() == chips.SOURCE_BYTES["v3"] == min(chips.SOURCE_BYTES.values())


def test_a_chip_is_named_for_what_is_traced_inside():
    with chips.compiling_for("v5e"):
        assert chips.source_bytes() == chips.SOURCE_BYTES["v5e"]
        with chips.compiling_for("v4"):
            assert chips.source_bytes() == chips.SOURCE_BYTES["v4"]
    assert chips.source_bytes() == chips.SOURCE_BYTES["v3"]


def test_an_unknown_chip_is_named():
    with pytest.raises(ValueError, match="chip should be one of .*'v3'"), chips.compiling_for("v9"):
        pass
