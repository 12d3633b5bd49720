"""A swap changes the attention alone, and what is measured of it is so."""

import jax
import numpy as np
import pytest

from biggan import Generator
from biggan.attention_maps import blocks_of, decomposed
from biggan.sampling import Sampler, latents, sampling_keys
from biggan.swaps import (
    AS_TRAINED,
    DENSE,
    REMOVED,
    Comparison,
    Swap,
    cost_of,
    oracle_rows,
    references,
    relative_error,
    swaps_within,
)
from evaluation.frechet import Moments, frechet_distance
from evaluation.kernel import kernel_distance
from evaluation.resizers import RESIZERS
from smyrf_jax import Dense, Local, Smyrf
from tests.biggan.variables import variables_of
from tests.evaluation import toy

OWN = Smyrf(num_hashes=2, cluster_size=64)
GENERATOR = Generator(32, channels=4, dim_z=8, attention={16: OWN})
KEYS = sampling_keys(0)
VARIABLES = variables_of(GENERATOR)
NOISE, LABELS = latents(GENERATOR, KEYS.noise, 6)


@pytest.fixture(scope="module")
def blocks():
    return blocks_of(GENERATOR, VARIABLES, NOISE[:2], LABELS[:2])


@pytest.fixture(scope="module")
def comparison(blocks):
    return Comparison(
        GENERATOR,
        VARIABLES,
        NOISE,
        LABELS,
        KEYS.hashing,
        blocks=blocks,
        network=toy.network(),
        real=toy.images(5, side=32),
        batch_size=4,
    )


def measured(comparison, swap):
    images = comparison.draw(swap)
    return images, comparison.row(swap, images)


@pytest.fixture(scope="module")
def dense(comparison):
    return measured(comparison, references(GENERATOR)[0])


def test_references():
    dense, own, removed = references(GENERATOR)
    assert (dense.name, own.name, removed.name) == (DENSE, AS_TRAINED, REMOVED)
    assert (dense.methods, own.methods) == ({16: Dense()}, {16: OWN})
    found = references(GENERATOR.clone(attention={8: Dense(), 16: Dense()}))
    assert [swap.name for swap in found] == [DENSE, REMOVED]
    assert found[0].settings == "8: Dense(); 16: Dense()"


def test_settings_are_those_of_the_budget(blocks):
    swaps, left_out = swaps_within(["smyrf", "performer"], [0.01, 0.5, 1.0], blocks)
    assert [(swap.name, swap.part) for swap in swaps] == [
        ("smyrf", 0.5),
        ("smyrf", 1),
        ("performer", 0.5),
        ("performer", 1),
    ]
    assert swaps[0].methods == {16: Smyrf.for_budget(256, 64, pairs=0.5)}
    assert [message.split(". ")[0] for message in left_out] == [
        f"{name} at 1.00% of the pairs is left out" for name in ("smyrf", "performer")
    ]
    assert "the least is" in left_out[0]
    pairs, memory = cost_of(swaps[0], blocks)
    expected = swaps[0].methods[16].cost(256, 64, width=2, value_width=8)
    assert (pairs, memory) == pytest.approx((expected.pairs, expected.memory_of_dense))


def test_costs_are_of_all_blocks(blocks):
    other = blocks[0]._replace(size=8, query=blocks[0].query[:, :64], key=blocks[0].key[:, :16])
    swap = Swap("some", None, {16: Local(16), 8: Local(16)})
    pairs, memory = cost_of(swap, [*blocks, other])
    assert pairs == pytest.approx((256 * 16 + 64 * 16) / (256 * 64 + 64 * 16))
    assert cost_of(Swap("dense", None, {16: Dense(), 8: Dense()}), [*blocks, other]) == (1, 1)
    assert memory > 0


def test_names_and_parts_that_there_are_not(blocks):
    for names in (["smyrf", "linear"], ["dense"], []):
        with pytest.raises(
            ValueError, match="--methods should be of smyrf, canopy.*but got (linear|dense|none)"
        ):
            swaps_within(names, [0.5], blocks)
    for part in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"--pairs should be parts above 0 and up to 1, but got \["):
            swaps_within(["smyrf"], [0.5, part], blocks)


def test_the_dense_row_is_the_reference(dense):
    images, row = dense
    assert images.shape == (6, 32, 32, 3)
    assert images.std(axis=0).mean() > 3  # they differ, so that they can be confused
    assert (row.pairs, row.memory) == (1, 1)
    assert row.attention_error == row.image_error == row.feature_error == row.kd == 0
    assert row.fd == pytest.approx(0, abs=1e-6)


def test_the_own_attention_is_sampling_as_trained(comparison, dense):
    images, row = measured(comparison, references(GENERATOR)[1])
    expected = Sampler(GENERATOR, 4)(VARIABLES, NOISE, LABELS, KEYS.hashing)
    np.testing.assert_array_equal(images, expected)
    assert row.settings == repr(OWN)
    assert row.attention_error > 0.05
    assert np.abs(images - dense[0].astype(float)).max() > 5
    own, reference = (toy.network().variables["scale"] * _quarters(of) for of in (images, dense[0]))
    assert row.image_error == pytest.approx(relative_error(images, dense[0]))
    assert row.feature_error == pytest.approx(relative_error(own, reference), rel=1e-4)
    assert row.fd == pytest.approx(frechet_distance(*map(Moments.of, (own, reference))), rel=1e-3)
    assert row.kd == pytest.approx(kernel_distance(own, reference, paired=True).value, rel=1e-3)
    real = toy.network().variables["scale"] * _quarters(np.stack(toy.images(5, side=32)))
    assert row.kd_real == pytest.approx(kernel_distance(own, real).value, rel=1e-3)


def _quarters(images):
    """Features as the toy network has them, without their factor, of images of 32 x 32 brought to 8 x 8."""
    small = np.stack([RESIZERS["legacy_pytorch"](image, 8) for image in images]).astype(float)
    return small.reshape(-1, 2, 4, 2, 4, 3).mean((2, 4)).reshape(len(images), -1)


def test_all_pairs_give_the_dense_images(comparison, dense, blocks):
    """Where they are spent on all keys; with one key a query they do not."""
    (whole,), _ = swaps_within(["local"], [1.0], blocks)
    for methods in (whole.methods, {16: Smyrf(num_hashes=1, cluster_size=256)}):
        images, row = measured(comparison, Swap("whole", 1.0, methods))
        assert row.pairs == 1
        assert np.abs(images.astype(int) - dense[0]).max() <= 1
        assert row.attention_error < 1e-5


def test_the_error_falls_with_pairs(comparison):
    rows = [measured(comparison, Swap("local", None, {16: Local(window)}))[1] for window in (4, 32, 60)]
    for field in ("attention_error", "image_error", "feature_error"):
        few, some, most = (getattr(row, field) for row in rows)
        assert few > some > most > 0, field


def test_removed_attention_is_a_gamma_of_zero(comparison):
    images, row = measured(comparison, references(GENERATOR)[2])
    variables = jax.tree.map(np.copy, VARIABLES)
    variables["params"]["attention1"]["gamma"] *= 0
    expected = Sampler(GENERATOR, 4)(variables, NOISE, LABELS, KEYS.hashing)
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert (row.pairs, row.memory, row.attention_error) == (0, 0, 1)


def test_without_real_images_there_is_no_distance_from_them(blocks):
    found = Comparison(
        GENERATOR, VARIABLES, NOISE, LABELS, KEYS.hashing, blocks=blocks, network=toy.network(), batch_size=4
    )
    _, row = measured(found, references(GENERATOR)[0])
    assert row.kd_real is row.kd_real_sd is None


def test_oracles_spend_what_they_may(blocks):
    rows = oracle_rows(blocks, [decomposed(block) for block in blocks], [0.25, 1.0])
    assert [(row.method, row.settings, row.part) for row in rows] == [
        ("largest keys", "16", 0.25),
        ("largest keys", "64", 1),
        ("truncated SVD", "12", 0.25),
        ("truncated SVD", "51", 1),
    ]
    assert [row.pairs for row in rows] == pytest.approx([0.25, 1, 12 * 320 / 256 / 64, 51 * 320 / 256 / 64])
    for few, most in (rows[:2], rows[2:]):
        assert few.attention_error > most.attention_error
        assert few.memory is few.image_error is few.kd_real is None


def test_relative_errors_are_means_of_each():
    exact = np.array([[[3.0, 4.0]], [[0.0, 2.0]], [[0.0, 0.0]]])
    found = exact + np.array([[[0.0, 5.0]], [[1.0, 0.0]], [[0.0, 0.0]]])
    assert relative_error(found, exact) == pytest.approx((1 + 0.5 + 0) / 3)
    assert relative_error(found.astype(np.uint8), exact.astype(np.uint8)) == pytest.approx((1 + 0.5 + 0) / 3)
