"""Parity with the original PyTorch program, on its own projections and positions."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import (
    Clustering,
    clustered_attention,
    dense_attention,
    e2lsh,
    sort_clustering,
    xbox_plus,
)

GOLDEN = sorted((pathlib.Path(__file__).parent.parent / "golden").glob("smyrf_*.npz"))
NAMES = ("queries", "keys", "values")
UNMASKED = [path for path in GOLDEN if "mask" not in path.name]
assert len(GOLDEN) == 7


def load(path, dtype):
    with np.load(path) as file:
        case = dict(file)
    # The original has no heads: [B, T, D] -> [B, T, 1, D].
    arrays = [jnp.asarray(case[name][:, :, None], dtype) for name in NAMES]
    return case, arrays


def mask_of(case):
    if "attn_mask" not in case:
        return None
    keep = jnp.asarray(case["attn_mask"] == 0)[:, None, None, :]
    return jnp.broadcast_to(keep, (len(case["queries"]), 1, 1, keep.shape[-1]))


def recorded_clustering(case):
    num_clusters = case["queries"].shape[1] // int(case["q_cluster_size"])

    def order(positions):  # [R, B, T] -> [B, N, R, L, C]
        rounds, batch, _ = positions.shape
        return jnp.asarray(positions).reshape(rounds, batch, 1, num_clusters, -1).transpose(1, 2, 0, 3, 4)

    return Clustering(order(case["q_positions"]), order(case["k_positions"]))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-6), (jnp.float32, 1e-5)])
def test_outputs_and_gradients(path, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        case, arrays = load(path, dtype)
        mask, clustering = mask_of(case), recorded_clustering(case)
        weight = jnp.asarray(case["w"][:, :, None], dtype)
        scale = 1 / float(case["norm_factor"])

        @jax.jit
        def loss(query, key, value):
            output = clustered_attention(query, key, value, clustering, mask, scale=scale)
            return jnp.sum(output * weight), output

        (_, output), grads = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*arrays)
        dense = dense_attention(*arrays, mask, scale=scale)
        # Where all keys of a query are masked the original averages them; here they count for nothing.
        kept = slice(None) if mask is None else case["attn_mask"][0] == 0
        compared = {"out": output, "dense_out": dense}
        compared |= {f"grad_{name}": grad for name, grad in zip(NAMES, grads, strict=True)}
        for name, array in compared.items():
            assert_close(array[:, kept, 0], case[name][:, kept], tolerance)
        if mask is not None:
            for grad in grads[1:]:
                np.testing.assert_array_equal(grad[:, ~kept], 0)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_transforms_and_hashes(path):
    with jax.enable_x64(True):
        case, (query, key, _) = load(path, jnp.float64)
        mapped_query, mapped_key = xbox_plus(query, key)
        assert_close(mapped_query[:, :, 0], case["xq"], 1e-9)
        assert_close(mapped_key[:, :, 0], case["xk"], 1e-9)
        hashes = e2lsh(mapped_query, jnp.asarray(case["alpha"].T))[:, 0].transpose(1, 0, 2)
        assert_close(hashes + case["beta"][0][:, None, None], case["q_hash"], 1e-9)


@pytest.mark.parametrize("path", UNMASKED, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_clusters_are_the_recorded_sets(path, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        case, (query, key, _) = load(path, dtype)
        directions = jnp.asarray(case["alpha"].T, dtype)
        hashes = [e2lsh(vectors, directions) for vectors in xbox_plus(query, key)]
        clustering = sort_clustering(*hashes, cluster_size=int(case["q_cluster_size"]))
        chex.assert_trees_all_equal(
            jax.tree.map(lambda order: jnp.sort(order, axis=-1), clustering),
            jax.tree.map(lambda order: jnp.sort(order, axis=-1), recorded_clustering(case)),
        )


def assert_close(actual, expected, relative):
    np.testing.assert_allclose(
        np.asarray(actual), expected, rtol=relative, atol=relative * np.abs(expected).max()
    )
