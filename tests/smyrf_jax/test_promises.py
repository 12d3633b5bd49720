"""What `attention` promises, kept by every method: a table of methods and promises.

A cell is the promise's check, another check that says why, or the message with which the method refuses.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType

from smyrf_jax import Canopy
from smyrf_jax.methods import METHODS
from tests.smyrf_jax.promises import masking, numbers, transformations
from tests.smyrf_jax.promises.problems import ONE_CLUSTER, SMALL, problem_of
from tests.smyrf_jax.promises.programs import run


@pytest.fixture(scope="module", autouse=True)
def _compiling_quickly():
    """Compiling is most of the time; what programs compute does not depend on it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


PROMISES = {
    check.__name__: check
    for check in (
        transformations.jit_equals_eager,
        transformations.vmap_equals_batch,
        transformations.gradients_are_differences,
        transformations.it_goes_through_scan_and_remat,
        transformations.it_goes_through_shard_map,
        transformations.the_compiler_shards_batch_and_heads,
        transformations.an_explicit_mesh_shards_batch_and_heads,
        transformations.it_is_exported,
        transformations.it_is_exported_for_any_batch,
        transformations.promotion_may_be_strict,
        masking.padding_changes_nothing,
        masking.queries_and_keys_are_padded_apart,
        masking.rows_without_keys_are_zero,
        masking.lengths_are_masks,
        masking.masked_garbage_changes_nothing,
        masking.masked_garbage_changes_nothing_causal,
        masking.no_later_token_matters,
        masking.no_later_key_is_attended,
        numbers.nothing_gives_zeros,
        numbers.vectors_may_be_empty,
        numbers.one_cluster_is_dense,
        numbers.one_cluster_is_dense_in_half_precision,
        numbers.half_precision_is_near_single,
        numbers.large_logits_are_those_of_dense,
        numbers.the_scale_may_be_negative_or_zero,
        numbers.the_rng_is_a_typed_key,
    )
}
# Where a cell is not the promise's own check.
CELLS = {
    ("performer", "one_cluster_is_dense"): numbers.features_are_their_formula,
    ("performer", "one_cluster_is_dense_in_half_precision"): functools.partial(
        numbers.half_precision_is_near_single, dtype=jnp.bfloat16, tolerance=5e-2
    ),
    ("performer", "large_logits_are_those_of_dense"): numbers.large_logits_are_no_nan,
    ("canopy", "no_later_token_matters"): "Canopy and Centroids cannot be causal",
} | {
    (name, "no_later_token_matters"): "clusters_see_future=True"
    for name in ("smyrf", "scatterbrain", "reformer", "routing", "hyperattention")
}
TABLE = {
    (name, promise): CELLS.get((name, promise), check)
    for name, (promise, check) in itertools.product(SMALL, PROMISES.items())
}


@pytest.mark.parametrize(("name", "promise"), TABLE)
def test_promise(name, promise):
    cell = TABLE[name, promise]
    if isinstance(cell, str):
        with pytest.raises(ValueError, match=cell):
            PROMISES[promise](name)
    else:
        cell(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("axis", ["batch", "heads"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_one_axis_of_a_mesh(name, axis, kind):
    transformations.on_a_mesh(name, (axis,), kind)


def test_the_table_is_complete():
    assert {type(method).__name__.lower() for method in SMALL.values()} == set(METHODS)
    assert {name: type(method) for name, method in ONE_CLUSTER.items()} == {
        name: type(method) for name, method in SMALL.items()
    }
    assert set(TABLE) == set(itertools.product(SMALL, PROMISES))
    assert set(CELLS) < set(TABLE)


def test_canopy_without_means_may_be_causal_where_its_clusters_may_see_the_future():
    with pytest.raises(ValueError, match="clusters_see_future=True"):
        run(Canopy(1, 8, 0), problem_of(), True)
    with pytest.raises(ValueError, match="Canopy and Centroids cannot be causal"):
        run(Canopy(1, 8, 2, clusters_see_future=True), problem_of(), True)
