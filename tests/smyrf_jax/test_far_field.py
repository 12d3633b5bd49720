"""Estimates outside the clusters: against the dense attention of the very same approximation."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import (
    centroid_far_field,
    clustered_attention,
    dense_attention,
    local_clustering,
    orthogonal_projection,
    performer_far_field,
    smyrf_clustering,
    tree_clustering,
)
from smyrf_jax.clustering import cluster_of_tokens
from smyrf_jax.diagnostics import shared_cluster
from smyrf_jax.far_field import positive_features
from smyrf_jax.halving import halve_clusters

B, T, S, N, D, V = 2, 37, 41, 4, 6, 5
KINDS = ("features", "centroids")


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def arrays(num_keys=S, key_heads=N):
    rng = np.random.default_rng(0)
    shapes = (B, T, N, D), (B, num_keys, key_heads, D), (B, num_keys, key_heads, V)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def some_keys(num_keys=S):
    return jnp.asarray(np.random.default_rng(1).random((B, 1, 1, num_keys)) < 0.7)


def cluster(query, key, mask=None, rounds=3):
    return tree_clustering(query, key, mask, rng=jax.random.key(0), num_hashes=rounds, cluster_size=8)


def projection():
    return orthogonal_projection(jax.random.key(1), 9, D, jnp.float64)


MEANS = 2


def far_field(kind, query, key, value, clustering, mask=None, is_causal=False, scale=None):
    if kind == "features":
        return performer_far_field(
            query, key, value, mask, projection=projection(), is_causal=is_causal, scale=scale
        )
    options = {"means_per_cluster": MEANS, "scale": scale}
    return centroid_far_field(query, key, value, clustering, mask, **options)


def estimates(kind, query, key, clustering, mask, scale):
    """[B, N, T, S], of all pairs, as the formula has it."""
    if kind == "features":
        pairs = []
        for vectors in (query, key):
            along = jnp.einsum("btnd,md->btnm", math.sqrt(scale) * vectors, projection())
            both = jnp.exp(jnp.concatenate([along, -along], axis=-1)) / math.sqrt(18)
            pairs.append(both * jnp.exp(-scale * jnp.sum(vectors**2, axis=-1) / 2)[..., None])
        return jnp.einsum("btnm,bsnm->bnts", *pairs)
    order, num_keys = clustering.key_order[..., 0, :, :], key.shape[1]
    if mask is not None:
        kept = jnp.pad(jnp.broadcast_to(mask[:, :, 0], (B, N, num_keys)), ((0, 0), (0, 0), (0, 1)))
        order = jnp.where(
            jnp.take_along_axis(kept, order.reshape(B, N, -1), 2).reshape(order.shape), order, num_keys
        )
        order = jnp.sort(order, axis=-1)
    by_head = jnp.moveaxis(key, 2, 1).reshape(B * N, num_keys, D)
    order = halve_clusters(by_head, order.reshape(B * N, *order.shape[2:]), times=1)
    order = order.reshape(B, N, *order.shape[1:])
    of_key = cluster_of_tokens(order, num_keys)
    own = of_key[..., None] == jnp.arange(order.shape[-2])[None, None, None]
    count = jnp.maximum(jnp.sum(own, axis=2), 1)[..., None]
    mean = jnp.einsum("bnsl,bsnd->bnld", own, key) / count
    logits = scale * jnp.einsum("btnd,bnld->bntl", query, mean)
    return jnp.exp(jnp.take_along_axis(logits, jnp.maximum(of_key, 0)[:, :, None, :], axis=-1))


def reference(kind, query, key, value, clustering, mask=None, is_causal=False, scale=None):
    """Output and logsumexp, with all weights at once."""
    scale = 1 / math.sqrt(D) if scale is None else scale
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(array, groups, axis=2) for array in (key, value))
    num_keys = key.shape[1]
    kept = jnp.ones((B, 1, 1, num_keys), bool) if mask is None else mask
    if is_causal:
        places = jnp.arange(num_keys)[None] <= jnp.arange(T)[:, None] + num_keys - T
        kept = kept & places[None, None]
    exact = jnp.exp(scale * jnp.einsum("btnd,bsnd->bnts", query, key))
    met = shared_cluster(clustering, T, num_keys)
    weights = kept * jnp.where(met, exact, estimates(kind, query, key, clustering, mask, scale))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    output = jnp.einsum("bnts,bsnv->btnv", weights / jnp.where(total > 0, total, 1), value)
    return output, jnp.moveaxis(jnp.log(total[..., 0]), 1, 2)


def loss_of(output, logsumexp):
    weights = jnp.asarray(np.random.default_rng(2).normal(size=output.shape))
    finite = jnp.isfinite(logsumexp)
    return jnp.sum(weights * output) + jnp.sum(jnp.where(finite, jnp.sin(logsumexp), 0.0))


def compare(kind, arguments, clustering, tolerance=1e-10, **options):
    def ours(*arguments):
        far = far_field(kind, *arguments, clustering, **options)
        causal = {"is_causal": options.get("is_causal", False), "scale": options.get("scale")}
        return clustered_attention(
            *arguments, clustering, options.get("mask"), far_field=far, return_residual=True, **causal
        )

    def theirs(*arguments):
        return reference(kind, *arguments, clustering, **options)

    chex.assert_trees_all_close(jax.jit(ours)(*arguments), theirs(*arguments), rtol=tolerance, atol=1e-12)
    gradients = [
        jax.jit(jax.grad(lambda *arguments, run=run: loss_of(*run(*arguments)), argnums=(0, 1, 2)))(
            *arguments
        )
        for run in (ours, theirs)
    ]
    chex.assert_trees_all_close(*gradients, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_the_formulas(kind, masked):
    arguments, mask = arrays(), some_keys() if masked else None
    compare(kind, arguments, cluster(*arguments[:2], mask), mask=mask, scale=0.7)


def test_one_round_wants_no_estimate_of_a_pair():
    arguments, mask = arrays(), some_keys()
    clustering = cluster(*arguments[:2], mask, rounds=1)
    far = far_field("centroids", *arguments, clustering, mask)
    assert far.query is None
    assert far.key is None
    compare("centroids", arguments, clustering, mask=mask)
    with pytest.raises(ValueError, match="made for a clustering of one round"):
        clustered_attention(*arguments, cluster(*arguments[:2], mask), mask, far_field=far)
    with pytest.raises(ValueError, match="first round"):
        clustered_attention(*arguments, clustering, mask, far_field=far, window=3)


@pytest.mark.parametrize("kind", ["features", "centroids"])
def test_shared_key_heads(kind):
    arguments = arrays(key_heads=2)
    compare(kind, arguments, cluster(*arguments[:2], rounds=1))


@pytest.mark.parametrize("num_keys", [S, 30])
def test_causal_features(num_keys):
    arguments = arrays(num_keys)
    if num_keys < T:  # the first queries see nothing
        arguments[2] = arguments[2].at[0].set(0.0)
    clustering, mask = cluster(*arguments[:2]), some_keys(num_keys)

    def ours(*arguments):
        far = far_field("features", *arguments, clustering, mask, is_causal=True)
        return clustered_attention(*arguments, clustering, mask, far_field=far, is_causal=True)

    def theirs(*arguments):
        return reference("features", *arguments, clustering, mask, is_causal=True)[0]

    def values(run):
        def loss(*arguments):
            output = run(*arguments)
            return jnp.sum(jnp.sin(output)), output

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*arguments)

    chex.assert_trees_all_close(values(ours), values(theirs), rtol=1e-9, atol=1e-11)


def test_second_derivatives():
    arguments = [array[:1, :12, :1] for array in arrays()]
    clustering = tree_clustering(*arguments[:2], rng=jax.random.key(0), num_hashes=2, cluster_size=4)

    def ours(query):
        far = centroid_far_field(query, *arguments[1:], clustering)
        return jnp.sum(jnp.sin(clustered_attention(query, *arguments[1:], clustering, far_field=far)))

    def gradient_norm(query):
        return jnp.sum(jax.grad(ours)(query) ** 2)

    query, step = arguments[0], jnp.asarray(np.random.default_rng(5).normal(size=arguments[0].shape))
    gradient_norm = jax.jit(gradient_norm)
    slope = jnp.sum(jax.jit(jax.grad(gradient_norm))(query) * step)
    ahead, behind = (gradient_norm(query + sign * 1e-5 * step) for sign in (1, -1))
    np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_one_cluster_is_dense_attention(kind):
    query, key, value = arrays()
    clustering = tree_clustering(query, key, rng=jax.random.key(0), num_hashes=1, cluster_size=T)
    far = far_field(kind, query, key, value, clustering)
    output = clustered_attention(query, key, value, clustering, far_field=far)
    np.testing.assert_allclose(output, dense_attention(query, key, value), rtol=1e-9, atol=1e-11)


def test_centroids_are_exact_when_the_keys_of_each_cluster_coincide():
    query, key, value = arrays(40)
    clustering = cluster(query, key, rounds=1)
    of_key = cluster_of_tokens(clustering.key_order[:, :, 0], 40)
    points = jnp.asarray(np.random.default_rng(3).normal(size=(B, N, 5, D)))
    key = jnp.moveaxis(jnp.take_along_axis(points, of_key[..., None], axis=2), 1, 2)
    far = centroid_far_field(query, key, value, clustering)
    expected = dense_attention(query, key, value)
    output = clustered_attention(query, key, value, clustering, far_field=far)
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_keys_count_in_no_sum(kind):
    query, key, value = arrays()
    mask = some_keys().at[1].set(False)
    clustering = cluster(query, key, mask)
    spoilt = jnp.where(mask[:, 0, 0, :, None, None], 1.0, 1e4)
    outputs = []
    for keys, values in ((key, value), (key * spoilt, value * spoilt)):
        far = far_field(kind, query, keys, values, clustering, mask)
        outputs.append(clustered_attention(query, keys, values, clustering, mask, far_field=far))
        np.testing.assert_array_equal(outputs[-1][1], 0)  # no keys at all
        np.testing.assert_array_equal(far.output[1], 0)
    np.testing.assert_allclose(*outputs, rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_large_logits_are_stable(kind, dtype):
    """Logits of some thousand: their exponentials would overflow in any float here."""
    query, key, value = (array.astype(dtype) for array in arrays())
    query = 30 * query
    key = 30 * key
    clustering = cluster(query, key)

    def loss(query, key, value):
        far = far_field(kind, query, key, value, clustering)
        output = clustered_attention(query, key, value, clustering, far_field=far)
        return jnp.sum(output.astype(jnp.float32)), output

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    gradients, output = run(query, key, value)
    assert output.dtype == dtype
    chex.assert_tree_all_finite((output, gradients))
    assert np.max(np.abs(np.asarray(output, np.float64))) < 10


def test_features_are_unbiased_with_the_variance_of_the_closed_form():
    x, y = (0.5 * jnp.asarray(np.random.default_rng(7).normal(size=D)) for _ in range(2))
    x = x.at[0].add(0.4)
    rows, draws = 4, 40_000
    gaussian = jax.random.normal(jax.random.key(3), (draws, rows, D), jnp.float64)

    def estimate(projection):
        (fx, sx), (fy, sy) = (positive_features(vector, projection) for vector in (x, y))
        return jnp.sum(fx * fy) * jnp.exp(sx + sy)

    found = np.asarray(jax.vmap(estimate)(gaussian))
    kernel = float(jnp.exp(x @ y))
    # A row gives e^{-(|x|^2+|y|^2)/2} cosh(w.z) with z = x + y; E cosh^2(w.z) = (1 + e^{2|z|^2}) / 2.
    z = float(jnp.sum((x + y) ** 2))
    factor = math.exp(-float(x @ x + y @ y))
    variance = (factor * (1 + math.exp(2 * z)) / 2 - kernel**2) / rows
    np.testing.assert_allclose(found.mean(), kernel, atol=4 * math.sqrt(variance / draws))
    np.testing.assert_allclose(found.var(), variance, rtol=0.1)


def test_an_orthogonal_projection_is_gaussian_row_by_row():
    draws = jax.vmap(lambda rng: orthogonal_projection(rng, 7, 4))(jax.random.split(jax.random.key(0), 4000))
    assert draws.shape == (4000, 7, 4)
    inner = np.einsum("bid,bjd->bij", draws, draws)
    np.testing.assert_allclose(inner[:, 0, 1:4], 0, atol=1e-5)
    np.testing.assert_allclose(np.mean(inner[:, range(7), range(7)]), 4, rtol=0.02)
    np.testing.assert_allclose(np.mean(np.asarray(draws) ** 2, axis=(0, 1)), 1, rtol=0.05)


def test_scatterbrain_is_never_worse_than_performer_entry_by_entry():
    """Of unnormalised weights: exact where pairs meet, the very same estimate elsewhere."""
    query, key, _ = arrays(S)
    eye = jnp.broadcast_to(jnp.eye(S)[None, :, None], (B, S, N, S))
    clustering = smyrf_clustering(query, key, rng=jax.random.key(0), num_hashes=2, cluster_size=8)
    far = performer_far_field(query, key, eye, projection=projection())
    output, logsumexp = clustered_attention(query, key, eye, clustering, far_field=far, return_residual=True)
    exact = jnp.exp(jnp.einsum("btnd,bsnd->btns", query, key) / math.sqrt(D))
    errors = [
        np.abs(out * jnp.exp(residual)[..., None] - exact)
        for out, residual in ((output, logsumexp), (far.output, far.logsumexp))
    ]
    met = np.moveaxis(np.asarray(shared_cluster(clustering, T, S)), 1, 2)
    assert np.all(errors[0][met] < 1e-9)
    np.testing.assert_allclose(errors[0][~met], errors[1][~met], atol=1e-9)


@pytest.mark.parametrize("window", [1, 4, 7])
def test_local_windows(window):
    query, key, value = arrays(T)
    clustering = local_clustering((B, N), T, T, window=window)
    distance = jnp.arange(T)[None] - jnp.arange(T)[:, None]
    inside = (-(window // 2) <= distance) & (distance < (window + 1) // 2)
    logits = jnp.einsum("btnd,bsnd->bnts", query, key) / math.sqrt(D)
    weights = jax.nn.softmax(jnp.where(inside[None, None], logits, -jnp.inf), axis=-1)
    output = clustered_attention(query, key, value, clustering, window=window)
    np.testing.assert_allclose(output, jnp.einsum("bnts,bsnv->btnv", weights, value), rtol=1e-9)
    with pytest.raises(ValueError, match="window must be positive"):
        local_clustering((B, N), T, T, window=0)


def test_a_far_field_of_the_other_kind_is_refused():
    query, key, value = arrays()
    clustering = cluster(query, key)
    far = far_field("centroids", query, key, value, clustering)
    with pytest.raises(ValueError, match=r"far_field.is_causal=False, but here is_causal=True"):
        clustered_attention(query, key, value, clustering, far_field=far, is_causal=True)
