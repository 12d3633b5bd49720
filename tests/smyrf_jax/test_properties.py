"""What must hold for any shapes, masks, dtypes and options, found by hypothesis.

Compiled shapes are few, so that the time goes into values: sizes are drawn from short lists.
"""

import functools

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from smyrf_jax import clustered_attention, dense_attention, smyrf_attention
from tests.smyrf_jax.reference import arrays_of, cluster, reference

settings = functools.partial(
    hypothesis.settings,
    deadline=None,  # compiling takes what it takes
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # shrinking would compile for minutes
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
SHAPES = [(2, 9, 9, 2, 3, 3), (1, 12, 5, 4, 2, 3), (3, 5, 11, 2, 3, 2), (1, 1, 4, 2, 2, 2)]
SCALES = st.sampled_from([0.0, 0.1, 1.0, 30.0])


@st.composite
def problems(draw):
    """query, key, value, mask (or None) of one of the shapes, with fewer key heads in some."""
    shape = draw(st.sampled_from(SHAPES))
    arrays = arrays_of(shape, seed=draw(st.integers(0, 1000)))
    arrays[0] = arrays[0] * draw(SCALES)
    if draw(st.booleans()):
        arrays[1:] = [array[:, :, ::2] for array in arrays[1:]]
    if draw(st.booleans()):
        return *arrays, None
    heads = draw(st.sampled_from([1, shape[3]]))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    kept = draw(st.sampled_from([0.0, 0.4, 0.9]))
    return *arrays, jnp.asarray(rng.random((shape[0], heads, 1, shape[2])) < kept)


@functools.partial(jax.jit, static_argnames=("attend", "options"))
def run(attend, *arrays, options=()):
    return attend(*arrays, **dict(options))


@settings(max_examples=15)
@hypothesis.given(
    problems(), st.sampled_from([(1, 3), (3, 4)]), st.booleans(), st.booleans(), st.integers(0, 100)
)
def test_it_is_dense_attention_over_the_pairs_that_met(problem, sizes, is_causal, deduplicate, seed):
    query, key, value, mask = problem
    with jax.enable_x64(True):
        query, key, value = (jnp.asarray(np.asarray(array), jnp.float64) for array in (query, key, value))
        repeated = jnp.repeat(key, query.shape[2] // key.shape[2], axis=2)
        clustering = cluster(query, repeated, mask, *sizes, seed=seed)
        options = {"is_causal": is_causal, "deduplicate": deduplicate}
        attend = functools.partial(clustered_attention, return_residual=True)
        ours = attend(query, key, value, clustering, mask, **options)
        expected = reference(query, key, value, clustering, mask, **options)
        chex.assert_trees_all_close(ours, expected, rtol=1e-9, atol=1e-10)


@settings(max_examples=8)
@hypothesis.given(problems(), st.sampled_from(["float32", "bfloat16", "float16"]), st.booleans())
def test_one_cluster_is_exact_and_nothing_is_ever_nan(problem, dtype, is_causal):
    *arrays, mask = problem
    arrays = [array.astype(dtype) for array in arrays]
    length = arrays[0].shape[1]
    options = (("is_causal", is_causal), ("return_residual", True))
    expected = run(dense_attention, *arrays, mask, options=options)
    clustered = functools.partial(smyrf_attention, rng=jax.random.key(0), num_hashes=2, cluster_size=length)
    result = clustered(*arrays, mask, deduplicate=True, **dict(options))
    assert result[0].dtype == dtype
    tolerance = 1e-4 if dtype == "float32" else 3e-2
    result, expected = (jax.tree.map(lambda x: x.astype(jnp.float32), x) for x in (result, expected))
    chex.assert_trees_all_close(result, expected, rtol=tolerance, atol=tolerance)
    assert not jnp.any(jnp.isnan(result[0]))


@settings(max_examples=8)
@hypothesis.given(problems(), st.integers(0, 100), st.integers(0, 100))
def test_samples_do_not_meet_and_order_does_not_matter(problem, seed, poisoned):
    query, key, value, mask = problem
    batch, length = query.shape[:2]
    attend = functools.partial(smyrf_attention, num_hashes=2, cluster_size=4)
    output = attend(query, key, value, mask, rng=jax.random.key(seed))
    np.testing.assert_array_equal(attend(query, key, value, mask, rng=jax.random.key(seed)), output)
    poisoned %= batch
    others = np.arange(batch) != poisoned
    poison = [array.at[poisoned].set(jnp.nan) for array in (query, key, value)]
    again = attend(*poison, mask, rng=jax.random.key(seed))
    np.testing.assert_array_equal(again[others], output[others])
    if not jnp.any(query):
        return  # queries that are all alike are clustered by their order
    order = np.random.default_rng(seed).permutation(length)
    permuted = attend(query[:, order], key, value, mask, rng=jax.random.key(seed))
    chex.assert_trees_all_close(permuted, output[:, order], rtol=1e-4, atol=1e-5)
