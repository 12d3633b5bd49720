"""Estimates outside the clusters: against the dense attention of the very same approximation."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import (
    Centroids,
    Features,
    cluster_of_tokens,
    clustered_attention,
    dense_attention,
    local_clustering,
    orthogonal_projection,
    smyrf_clustering,
    tree_clustering,
)
from smyrf_jax.clustering.halving import halve_clusters
from smyrf_jax.diagnostics import shared_cluster
from tests.smyrf_jax.far_field.problem import B, D, N, S, T, arrays, cluster, some_keys

KINDS = ("features", "centroids")
pytestmark = pytest.mark.usefixtures("float64")


def projection():
    return orthogonal_projection(jax.random.key(1), 9, D, jnp.float64)


MEANS = 2


def far_field(kind):
    return Features(projection()) if kind == "features" else Centroids(MEANS)


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
        places = jnp.arange(num_keys)[None] <= jnp.arange(T)[:, None]
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
        return clustered_attention(
            *arguments, clustering, far_field=far_field(kind), return_residual=True, **options
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
    far = Centroids(MEANS).estimates(*arguments, clustering, mask, scale=1.0, is_causal=False)
    assert far.query is None
    assert far.key is None
    compare("centroids", arguments, clustering, mask=mask)


@pytest.mark.parametrize("kind", ["features", "centroids"])
def test_shared_key_heads(kind):
    arguments = arrays(key_heads=2)
    compare(kind, arguments, cluster(*arguments[:2], rounds=1))


@pytest.mark.parametrize("num_keys", [S, 30])
def test_causal_features(num_keys):
    arguments = arrays(num_keys)
    clustering, mask = cluster(*arguments[:2]), some_keys(num_keys)

    def ours(*arguments):
        far = far_field("features")
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
    clustering = tree_clustering(*arguments[:2], rng=jax.random.key(0), num_trees=2, cluster_size=4)

    def ours(query):
        output = clustered_attention(query, *arguments[1:], clustering, far_field=Centroids())
        return jnp.sum(jnp.sin(output))

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
    clustering = tree_clustering(query, key, rng=jax.random.key(0), num_trees=1, cluster_size=T)
    output = clustered_attention(query, key, value, clustering, far_field=far_field(kind))
    np.testing.assert_allclose(output, dense_attention(query, key, value), rtol=1e-9, atol=1e-11)


def test_centroids_are_exact_when_the_keys_of_each_cluster_coincide():
    query, key, value = arrays(40)
    clustering = cluster(query, key, rounds=1)
    of_key = cluster_of_tokens(clustering.key_order[:, :, 0], 40)
    points = jnp.asarray(np.random.default_rng(3).normal(size=(B, N, 5, D)))
    key = jnp.moveaxis(jnp.take_along_axis(points, of_key[..., None], axis=2), 1, 2)
    expected = dense_attention(query, key, value)
    output = clustered_attention(query, key, value, clustering, far_field=Centroids())
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_keys_count_in_no_sum(kind):
    query, key, value = arrays()
    mask = some_keys().at[1].set(False)
    clustering = cluster(query, key, mask)
    spoilt = jnp.where(mask[:, 0, 0, :, None, None], 1.0, 1e4)
    outputs = []
    for keys, values in ((key, value), (key * spoilt, value * spoilt)):
        far = far_field(kind)
        outputs.append(clustered_attention(query, keys, values, clustering, mask, far_field=far))
        np.testing.assert_array_equal(outputs[-1][1], 0)  # no keys at all
        alone = far.estimates(query, keys, values, clustering, mask, scale=1.0, is_causal=False)
        np.testing.assert_array_equal((alone.output if alone.means is None else alone.means.value)[1], 0)
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
        output = clustered_attention(query, key, value, clustering, far_field=far_field(kind))
        return jnp.sum(output.astype(jnp.float32)), output

    run = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    gradients, output = run(query, key, value)
    assert output.dtype == dtype
    chex.assert_tree_all_finite((output, gradients))
    assert np.max(np.abs(np.asarray(output, np.float64))) < 10


def test_scatterbrain_is_never_worse_than_performer_entry_by_entry():
    """Of unnormalised weights: exact where pairs meet, the very same estimate elsewhere."""
    query, key, _ = arrays(S)
    eye = jnp.broadcast_to(jnp.eye(S)[None, :, None], (B, S, N, S))
    clustering = smyrf_clustering(query, key, rng=jax.random.key(0), num_hashes=2, cluster_size=8)
    features = far_field("features")
    output, logsumexp = clustered_attention(
        query, key, eye, clustering, far_field=features, return_residual=True
    )
    far = features.estimates(query, key, eye, clustering, None, scale=1 / math.sqrt(D), is_causal=False)
    exact = jnp.exp(jnp.einsum("btnd,bsnd->btns", query, key) / math.sqrt(D))
    errors = [
        np.abs(out * jnp.exp(residual)[..., None] - exact)
        for out, residual in ((output, logsumexp), (far.output, far.logsumexp))
    ]
    met = np.moveaxis(np.asarray(shared_cluster(clustering, T, S)), 1, 2)
    assert np.all(errors[0][met] < 1e-9)
    np.testing.assert_allclose(errors[0][~met], errors[1][~met], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_made_for_the_attention_it_is_given_to(kind):
    """Mask, scale and clusters are the attention's own: values of one tell the sum of the weights."""
    query, key, value = arrays()
    mask, ones = some_keys(), jnp.ones_like(value)
    clustering = cluster(query, key)  # without the mask
    for scale in (0.2, 0.9):
        output, logsumexp = clustered_attention(
            query, key, ones, clustering, mask, scale=scale, far_field=far_field(kind), return_residual=True
        )
        expected = reference(kind, query, key, ones, clustering, mask, scale=scale)[1]
        np.testing.assert_allclose(output, 1, rtol=1e-9)
        np.testing.assert_allclose(logsumexp, expected, rtol=1e-9)


def test_what_cannot_be_estimated_is_refused():
    query, key, value = arrays(T)
    clustering = cluster(query, key)
    attend = functools.partial(clustered_attention, query, key, value, far_field=Centroids())
    with pytest.raises(ValueError, match="cannot be causal.*Features, or no far field"):
        attend(clustering, is_causal=True)
    with pytest.raises(ValueError, match="a window may hide some"):
        attend(local_clustering((B, N), T, T, window=3), window=3)
    with pytest.raises(ValueError, match="means_per_cluster must be a power of two, got means_per_cluster=3"):
        Centroids(3)
    with pytest.raises(ValueError, match=r"projection should be \[P, 6\], but got shape \(9, 5\)"):
        attend(clustering, far_field=Features(jnp.zeros((9, 5))))
    attend = functools.partial(getattr(clustered_attention, "__wrapped__", clustered_attention), query, key)
    with pytest.raises(ValueError, match="far_field should be Centroids.*but got <class"):
        attend(value, clustering, far_field=Centroids)
