"""Which implementation runs where."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from smyrf_jax import Performer, Smyrf, attention
from smyrf_jax.blockwise import gathered
from smyrf_jax.sharding import is_partitioned

METHOD = Smyrf(2, 8)


def kernels_in(function, *arguments, platform="tpu"):
    """How often kernels are called in the program for a platform."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,))
    return lowered.as_text().count("tpu_custom_call")


def attend(array):
    return attention(array, array, array, method=METHOD)


def mesh(kind):
    return jax.make_mesh((2,), ("x",), axis_types=(kind,))


def test_every_platform_has_its_own():
    array = jnp.zeros((2, 16, 1, 4))
    assert kernels_in(attend, array)
    for platform in ("cpu", "cuda"):
        assert not kernels_in(attend, array, platform=platform)


def test_only_what_is_run_is_traced(monkeypatch):
    def refuse(*_):
        raise AssertionError("traced")

    monkeypatch.setattr(gathered, "attend", refuse)
    chex.assert_tree_all_finite(attend(jnp.zeros((2, 16, 1, 4))))
    with pytest.raises(AssertionError, match="traced"):
        kernels_in(lambda array: attend(array), jnp.zeros((2, 16, 1, 4)))


def test_what_compilers_partition_has_no_kernels():
    array = jnp.zeros((2, 16, 1, 4))
    array = jax.device_put(array, NamedSharding(mesh(AxisType.Auto), PartitionSpec("x")))
    assert not kernels_in(attend, array)


def test_manual_axes_have_kernels():
    array = jnp.zeros((2, 16, 1, 4))
    by_hand = jax.shard_map(
        attend, mesh=mesh(AxisType.Auto), in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x")
    )
    assert kernels_in(by_hand, array)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_a_mesh_of_one_device_is_not_partitioned(kind):
    one = jax.make_mesh((1,), ("x",), axis_types=(kind,), devices=jax.devices()[:1])
    assert not is_partitioned(jax.device_put(np.zeros(4), NamedSharding(one, PartitionSpec("x"))))


def test_methods_without_clusters_have_no_implementations():
    array = jnp.zeros((1, 16, 1, 4))
    with pytest.raises(ValueError, match="Performer has no implementations to choose from"):
        attention(array, array, array, method=Performer(), implementation="loop")
