"""Which implementation runs where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from smyrf_jax import Performer, Smyrf, attention
from smyrf_jax.sharding import is_partitioned

METHOD = Smyrf(2, 8)


def kernels_in(function, *arguments):
    """How often kernels are called in what is traced."""
    return str(jax.make_jaxpr(function)(*arguments)).count("pallas_call")


def attend(array):
    return attention(array, array, array, method=METHOD)


def mesh(kind):
    return jax.make_mesh((2,), ("x",), axis_types=(kind,))


def test_every_platform_has_its_own():
    array = jnp.zeros((2, 16, 1, 4))
    assert kernels_in(attend, array)
    # A CPU runs the loop: no kernel is in its program.
    assert "pallas" not in jax.jit(attend).lower(array).as_text()


def test_what_compilers_partition_has_no_kernels():
    array = jnp.zeros((2, 16, 1, 4))
    array = jax.device_put(array, NamedSharding(mesh(AxisType.Auto), PartitionSpec("x")))
    assert not kernels_in(jax.jit(attend), array)


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
