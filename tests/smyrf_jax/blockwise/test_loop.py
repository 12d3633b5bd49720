"""What the loop over clusters keeps in memory, and how it cuts clusters into steps."""

import functools
import json
import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import pytest

from smyrf_jax import Smyrf, attention, clustered_attention
from smyrf_jax.blockwise import schedule
from tests.smyrf_jax.reference import arrays_of, avals_of, cluster, loss_of, reference


@pytest.mark.parametrize(
    ("logits", "queries"),
    [
        (1, 1),  # single queries
        (100, 3),  # a cluster of 16 x 8 in 2 pieces; the last step of a round is filled up
        (2**19, 1024),  # a round is one step
    ],
)
@pytest.mark.parametrize("deduplicate", [False, True])
def test_any_cut_gives_the_same_attention(logits, queries, deduplicate, monkeypatch):
    monkeypatch.setattr(schedule, "LOGITS_A_STEP", logits)
    monkeypatch.setattr(schedule, "QUERIES_A_STEP", queries)
    with jax.enable_x64(True):
        arrays = arrays_of((1, 45, 21, 2, 4, 5), jnp.float64)
        clustering = cluster(*arrays[:2], cluster_size=16)
        cut = schedule.steps_of(jax.tree.map(lambda order: order[0], clustering), 45, 21, 1)
        assert cut.queries[0].size * cut.keys.shape[-1] <= max(logits, queries * 2 * 8)

        def run(attend):
            def loss(*arrays):
                return loss_of(*attend(*arrays, clustering, deduplicate=deduplicate))

            return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arrays)

        ours = functools.partial(clustered_attention, return_residual=True)
        chex.assert_trees_all_close(run(ours), run(reference), rtol=1e-10, atol=1e-12)


def test_no_array_is_as_large_as_the_logits_of_a_round():
    rounds, length, size, heads, width = 4, 32768, 256, 2, 16
    array = jax.ShapeDtypeStruct((1, length, heads, width), jnp.float32)

    def loss(query, key, value):
        method = Smyrf(rounds, size, deduplicate=True)
        output = attention(query, key, value, method=method, implementation="loop")
        return jnp.sum(output**2)

    jaxpr = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(array, array, array)
    sizes = sorted({aval.size for aval in avals_of(jaxpr.jaxpr)})
    assert sizes[-1] < heads * length * size / 4  # a quarter of one round's logits
    assert sizes[-1] >= schedule.LOGITS_A_STEP  # it did look into the loop
    # The loops are two: no array of R rounds is kept between the forward and the backward pass.
    kept = [
        aval for aval in avals_of(jaxpr.jaxpr) if aval.shape[:1] == (rounds,) and aval.size > length * width
    ]
    assert not [aval for aval in kept if jnp.issubdtype(aval.dtype, jnp.floating)]


@pytest.mark.slow
def test_memory_on_a_tpu_stays_under_what_was_measured():
    """Peak of one TPU v3 core for BigGAN's attention, by the TPU compiler."""
    command = [sys.executable, "-m", "benchmarks.memory", "--tpu=v3", "--json"]
    # The compiler wants a process without other devices.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows = {row["case"]: row for row in json.loads(result.stdout) if row["dtype"] == "float32"}
    for case, part in (("128x128, batch 4", 0.08), ("256x256, batch 1", 0.02)):
        assert rows[case]["clustered"] < part * rows[case]["dense"]
