import pytest

from smyrf_jax.blockwise import tiles


@pytest.fixture
def few_clusters_a_step(monkeypatch):
    """Two clusters in a step of a grid, lest programs grow long: kernels are unrolled over them."""
    monkeypatch.setattr(tiles, "ROWS_A_STEP", 32)
