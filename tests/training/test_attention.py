"""Attention by its name."""

import pytest

from training.attention import ATTENTION, attention_from_config


def test_attention_names():
    assert set(ATTENTION) == {"canopy", "dense", "smyrf"}
    with pytest.raises(ValueError, match="should be one of .*'canopy', 'dense', 'smyrf'.*'sparse'"):
        attention_from_config("sparse")
    with pytest.raises(ValueError, match=r"dense attention has no options \['cluster_size'\]"):
        attention_from_config("dense", cluster_size=3)
