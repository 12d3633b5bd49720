"""Parity of the far field with the original Scatterbrain, on its own projections and positions."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Clustering, Features, clustered_attention, local_clustering
from smyrf_jax.far_field import positive_features

GOLDEN = sorted((pathlib.Path(__file__).parent.parent / "golden").glob("scatterbrain_*.npz"))
ATTENTION = [path for path in GOLDEN if "features" not in path.name]
FEATURES = [path for path in GOLDEN if "features" in path.name and "nocosh" not in path.name]
NAMES = ("query", "key", "value")
assert (len(ATTENTION), len(FEATURES)) == (7, 2)


def load(path):
    with np.load(path) as file:
        return dict(file)


def recorded_clustering(case):
    """The clusters of the recorded positions; the original pads, and hides what it padded."""
    batch, num_queries, heads, _ = case["query"].shape
    orders = []
    for name, length in (("q", num_queries), ("k", case["key"].shape[1])):
        positions, size = case[f"{name}_positions"], int(case[f"{name}_cluster_size"])
        order = np.minimum(positions, length).reshape(len(positions), batch, heads, -1, size)
        orders.append(jnp.asarray(order.transpose(1, 2, 0, 3, 4)))
    return Clustering(*orders)


def weights_of(attention, num_keys):
    """The weights [B, N, T, S] of an attention, by values that tell the keys apart."""
    return jnp.moveaxis(attention(jnp.eye(num_keys)), -2, -3)


@pytest.mark.parametrize("path", ATTENTION, ids=lambda path: path.stem.removeprefix("scatterbrain_"))
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_outputs_and_gradients(path, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        case = load(path)
        arrays = [jnp.asarray(case[name], dtype) for name in NAMES]
        projection, scale = jnp.asarray(case["projection_matrix"], dtype), float(case["softmax_temp"])
        batch, num_queries, heads, _ = arrays[0].shape
        num_keys, window = arrays[1].shape[1], None
        if "local_context" in case:
            window = int(case["local_context"])
            clustering = local_clustering((batch, heads), num_queries, num_keys, window=window)
        else:
            clustering = recorded_clustering(case)

        def attention(query, key, value):
            far = Features(projection)
            return clustered_attention(
                query, key, value, clustering, scale=scale, window=window, far_field=far
            )

        @jax.jit
        def loss(query, key, value):
            output = attention(query, key, value)
            return jnp.sum(output * jnp.asarray(case["w"], dtype)), output

        (_, output), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)
        compared = {"out": output}
        compared |= {f"grad_{name}": grad for name, grad in zip(NAMES, grads, strict=True)}
        for name, array in compared.items():
            np.testing.assert_allclose(
                array, case[name], rtol=tolerance, atol=tolerance * np.abs(case[name]).max()
            )
        eye = jnp.broadcast_to(
            jnp.eye(num_keys, dtype=dtype)[None, :, None], (batch, num_keys, heads, num_keys)
        )
        weights = jnp.moveaxis(attention(*arrays[:2], eye), 1, 2)
        np.testing.assert_allclose(weights, case["attn"], rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize("path", FEATURES, ids=lambda path: path.stem.removeprefix("scatterbrain_"))
def test_features(path):
    with jax.enable_x64(True):
        case = load(path)
        print({name: array.shape for name, array in case.items()})
        vectors = jnp.sqrt(float(case["t"] if "t" in case else case["softmax_temp"])) * jnp.asarray(case["x"])
        features, scale = positive_features(vectors, jnp.asarray(case["projection_matrix"]))
        np.testing.assert_allclose(features, case["q_prime"], rtol=1e-12)
        np.testing.assert_allclose(scale, case["q_prime_log_scale"][..., 0], rtol=1e-12)
        estimate = jnp.einsum("...sf,...tf->...st", features, features)
        estimate *= jnp.exp(scale[..., :, None] + scale[..., None, :])
        np.testing.assert_allclose(estimate, case["kernel_estimate"], rtol=1e-9)
