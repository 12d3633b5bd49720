"""What a program's platform runs, traced when it is lowered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Canopy, Local, Scatterbrain, Smyrf, attention, platforms
from smyrf_jax.platforms import Call, by_platform, result
from tests.smyrf_jax.promises.programs import untyped
from tests.smyrf_jax.reference import arrays_of

X = jnp.ones((2, 64, 1, 8))


def double(array):
    return 2 * array


def negative(by, array):
    return -by * array


def of_platform(array):
    calls = {"cpu": Call(double), "tpu": Call(negative, (3,)), "default": Call(negative, (5,))}
    return by_platform(result(array.shape, array.dtype), array, **calls)


def twice_the_product(array, by):
    return 2 * by * array


def of_platform_of_both(array, by):
    call = Call(twice_the_product)
    return by_platform(result(array.shape, array.dtype), array, by, cpu=call, tpu=call, default=call)


def test_each_platform_runs_its_call():
    np.testing.assert_array_equal(of_platform(X), 2 * X)
    np.testing.assert_array_equal(
        jax.vmap(jax.vmap(of_platform, 1), 2)(X), 2 * jnp.transpose(X, (2, 1, 0, 3))
    )
    np.testing.assert_array_equal(of_platform(np.asarray(X)), 2 * X)
    np.testing.assert_array_equal(jax.vmap(of_platform_of_both, (0, None))(X, np.float32(3)), 6 * X)
    with jax.disable_jit():
        np.testing.assert_array_equal(of_platform(X), 2 * X)
        np.testing.assert_array_equal(jax.vmap(of_platform_of_both, (0, None))(X, np.float32(3)), 6 * X)
    for platform, number in (("tpu", "-3.0"), ("cuda", "-5.0")):
        text = jax.jit(of_platform).trace(X).lower(lowering_platforms=(platform,)).as_text()
        assert number in text.replace("e+00", "").replace("-3.000000", "-3.0").replace("-5.000000", "-5.0")


def test_contexts_inside_jit_count():
    def attend(array):
        with jax.default_matmul_precision("highest"):
            return attention(array, array, array, method=Local(16))

    text = jax.jit(attend).lower(X).as_text()
    assert "HIGHEST" in text
    assert "DEFAULT" not in text

    def in_double(array):
        with jax.enable_x64(True):
            wide = array.astype("float64")
            return (attention(wide, wide, wide, method=Local(16)) - wide).astype("float32")

    assert jax.jit(in_double)(X).dtype == jnp.float32


@pytest.mark.parametrize(
    "method", [Smyrf(2, 16), Canopy(1, 16, 4), Local(16)], ids=["smyrf", "canopy", "local"]
)
@pytest.mark.parametrize("platforms", [("tpu",), ("cpu", "tpu"), ("cuda",)], ids="-".join)
def test_programs_for_other_platforms_are_exported(method, platforms):
    def attend(array):
        return attention(array, array, array, method=method)

    (batch,) = jax.export.symbolic_shape("b")
    for size in (2, batch):
        shape = jax.ShapeDtypeStruct((size, 64, 1, 8), jnp.float32)
        with untyped():
            assert jax.export.export(jax.jit(attend), platforms=platforms)(shape).serialize()


def test_kernels_are_lowered_in_double_precision_mode():
    with jax.enable_x64(True):
        lowered = jax.jit(lambda x: attention(x, x, x, method=Canopy(1, 16, 4))).trace(X)
        assert "tpu_custom_call" in lowered.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    "method", [Smyrf(2, 16), Canopy(1, 16, 4), Canopy(2, 16, 2), Scatterbrain(2, 16, 8)], ids=str
)
def test_what_accelerators_run_clusters_as_cpus_do(method, monkeypatch):
    """The forms of GPUs, run here: the same clusters and pieces, so the same output up to rounding."""
    length = 157
    arrays = arrays_of((2, length, length, 2, 8, 8))
    mask = jnp.arange(length)[None] < jnp.array([length, 101])[:, None]
    mask = mask[:, None, None]

    def run():
        attend = jax.jit(lambda *arrays: attention(*arrays, method=method, mask=mask, query_mask=mask))
        return attend(*arrays)

    on_cpu = run()
    run_for = platforms._run
    jax.clear_caches()  # of what was traced for CPUs, and below of what was not
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays))
    monkeypatch.setattr(platforms, "_run", lambda platform, *leaves, **of: run_for("", *leaves, **of))
    try:
        found = run()
    finally:
        jax.clear_caches()
    np.testing.assert_allclose(found, on_cpu, rtol=1e-5, atol=1e-6)
