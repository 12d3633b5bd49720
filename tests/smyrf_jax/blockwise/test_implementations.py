"""One contract, three implementations: gathers and kernels give what the loop gives.

Kernels are interpreted here: what a TPU's compiler makes of them, `tests/launch/test_schedule.py` compiles.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Centroids, attention, clustered_attention
from smyrf_jax.blockwise import Inputs, Rules, blockwise_attention, tiles
from tests.smyrf_jax.blockwise.implementations import (
    BASE,
    CASES,
    LONG,
    OTHERS,
    QUICKLY,
    TOLERANCE,
    Case,
    assert_alike,
    attend_by,
    compare,
    problem_of,
    results_of,
)
from tests.smyrf_jax.reference import loss_of, reference


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("name", CASES)
def test_gathers_and_kernels_give_what_the_loop_gives(name):
    compare(CASES[name], OTHERS)


def test_many_clusters_share_a_step():
    compare(BASE, ("pallas",))


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("implementation", ["loop", *OTHERS])
def test_they_give_what_dense_attention_with_counts_gives(implementation):
    expected = results_of(BASE, reference)
    found = results_of(BASE, attend_by(BASE, implementation))
    assert_alike(found, expected, TOLERANCE["float32"])


def test_clusters_larger_than_a_block():
    assert tiles.tiles_of(1, 1200, 1100) == (1, 256, 384, 384)
    compare(LONG, OTHERS)


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("clustered", [False, True])
def test_pairs_of_one_number_are_left_out(clustered):
    """Also where all tokens share one cluster without an order."""
    (query, key, value, scale), clustering, _ = problem_of(BASE)
    query, key, value, clustering = jax.tree.map(lambda array: array[0], (query, key, value, clustering))
    heads = BASE.heads
    of_query = jax.random.randint(jax.random.key(9), (heads, BASE.num_queries), -1, 3)
    of_key = jax.random.randint(jax.random.key(10), (heads, BASE.num_keys), 0, 3)
    without = of_query, jnp.where(of_key == 2, -2, of_key)

    def run(implementation):
        def loss(query, key, value, scale):
            orders = clustering if clustered else None
            rules = Rules(deduplicate=clustered, complete=clustered, implementation=implementation)
            results = blockwise_attention(rules, Inputs(query, key, value, scale, orders, without))
            return loss_of(*results), results

        gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
        return jax.jit(gradients, compiler_options=QUICKLY)(query, key, value, scale)

    expected = run("loop")
    for implementation in OTHERS:
        assert_alike(run(implementation), expected, TOLERANCE["float32"])


SMALL = Case(batch=1, num_queries=12, num_keys=9, heads=2, key_heads=1, values=3, cluster_size=4)


@pytest.mark.parametrize("change", [{}, {"far": lambda: Centroids(2)}], ids=["base", "means"])
def test_second_derivatives_are_those_of_the_loop(change):
    case = dataclasses.replace(SMALL, dtype="float64", **change)

    def run(implementation):
        arrays, clustering, mask = problem_of(case)
        attend = attend_by(case, implementation)

        def loss(query, key, value, scale):
            return loss_of(*attend(query, key, value, clustering, mask, scale=scale))

        def squared(*arrays):
            return sum(jnp.sum(grad**2) for grad in jax.grad(loss, argnums=(0, 1, 2, 3))(*arrays))

        gradients = jax.grad(squared, argnums=(0, 1, 2, 3))
        return jax.jit(gradients, compiler_options=QUICKLY)(*arrays)

    with jax.enable_x64(True):
        expected = run("loop")
        # The second pass is the loop's own, whatever ran the first: once is enough for means.
        for implementation in OTHERS[: 1 if change else 2]:
            assert_alike(run(implementation), expected, 1e-9)


@pytest.mark.usefixtures("few_clusters_a_step")
@pytest.mark.parametrize("implementation", OTHERS)
def test_mapped_samples_are_those_of_a_batch_and_know_nothing_of_each_other(implementation):
    """One vmap more than the batch has; a sample that is no number spoils no other."""
    case = dataclasses.replace(SMALL, batch=3)
    (*arrays, scale), clustering, _ = problem_of(case)
    attend = attend_by(case, implementation)

    def gradients(query, key, value, clustering):
        def loss(*arrays):
            results = attend(*arrays, clustering, None, scale=scale)
            return loss_of(*results), results

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(query, key, value)

    def alone(array):
        return array[:, None]

    mapped = jax.jit(jax.vmap(gradients), compiler_options=QUICKLY)
    arguments = jax.tree.map(alone, (*arrays, clustering))
    found = mapped(*arguments)
    one = jax.jit(gradients, compiler_options=QUICKLY)
    singly = [
        one(*jax.tree.map(lambda array, sample=sample: array[sample], arguments)) for sample in range(3)
    ]
    assert_alike(found, jax.tree.map(lambda *parts: jnp.stack(parts), *singly), TOLERANCE["float32"])
    spoiled = mapped(*(array.at[1, 0, 0, 0].set(jnp.nan) for array in arguments[:3]), arguments[3])
    apart = np.array([0, 2])
    chex.assert_trees_all_equal(*(jax.tree.map(lambda array: array[apart], of) for of in (spoiled, found)))
    assert any(jnp.any(jnp.isnan(array[1])) for array in jax.tree.leaves(spoiled))


@pytest.mark.parametrize("name", ["exact", "", "Loop"])
def test_an_unknown_implementation_is_refused(name):
    (*arrays, _), clustering, _ = problem_of(SMALL)
    # Beyond the checks of the tests' own type hook, as a user meets it.
    whole, clustered = (getattr(of, "__wrapped__", of) for of in (attention, clustered_attention))
    message = f"implementation should be .*loop.*gather.*pallas.*{name!r}"
    with pytest.raises(ValueError, match=message):
        whole(*arrays, implementation=name)
    with pytest.raises(ValueError, match=message):
        clustered(*arrays, clustering, implementation=name)
