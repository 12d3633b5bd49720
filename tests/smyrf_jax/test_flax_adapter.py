"""as_attention_fn inside Flax's own multi-head attention, linen and nnx."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from smyrf_jax import Canopy, Dense, Smyrf, attention
from smyrf_jax.flax_adapter import as_attention_fn

FEATURES, HEADS, LENGTH = 8, 2, 12
# One cluster: equal to Flax's own dense attention, whatever is drawn.
EXACT = Smyrf(1, LENGTH)
CLUSTERED = Smyrf(2, 4)


def inputs_of(seed=0):
    return jax.random.normal(jax.random.key(seed), (2, LENGTH, FEATURES))


def padding():
    return jnp.arange(LENGTH)[None] < jnp.array([LENGTH, 7])[:, None]


class Linen(linen.Module):
    """Two layers, the first rematerialised."""

    attention_fn: object

    @linen.compact
    def __call__(self, inputs, mask=None):
        layer = functools.partial(
            linen.MultiHeadDotProductAttention, num_heads=HEADS, attention_fn=self.attention_fn
        )
        outer = linen.remat(linen.MultiHeadDotProductAttention)(
            num_heads=HEADS, attention_fn=self.attention_fn, name="first"
        )
        hidden = outer(inputs, mask=mask)
        return layer(name="second")(hidden, mask=mask)


class NNX(nnx.Module):
    def __init__(self, attention_fn, rngs):
        self.layer = nnx.MultiHeadAttention(
            HEADS, FEATURES, decode=False, attention_fn=attention_fn, rngs=rngs, keep_rngs=False
        )

    def __call__(self, inputs, mask=None):
        return self.layer(inputs, mask=mask)


def test_linen_one_cluster_is_its_dense_attention():
    inputs, mask = inputs_of(), padding()[:, None, None, :]
    dense, ours = Linen(linen.dot_product_attention), Linen(as_attention_fn(EXACT))
    variables = dense.init(jax.random.key(0), inputs)

    def loss(model, variables, rng):
        output = model.apply(variables, inputs, mask, rngs={"hashing": rng})
        return jnp.sum(output**2), output

    run = functools.partial(jax.value_and_grad, has_aux=True)
    expected = jax.jit(run(functools.partial(loss, dense)))(variables, jax.random.key(1))
    result = jax.jit(run(functools.partial(loss, ours)))(variables, jax.random.key(2))
    chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-5)


def test_linen_draws_from_the_collection_hashing():
    inputs = inputs_of()
    model = Linen(as_attention_fn(CLUSTERED))
    variables = model.init({"params": jax.random.key(0), "hashing": jax.random.key(1)}, inputs)
    assert set(variables["params"]) == {"first", "second"}
    apply = jax.jit(lambda rng: model.apply(variables, inputs, rngs={"hashing": rng}))
    first, again, other = (apply(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert jnp.any(first != other)
    # Without the collection it is always the same, and the module may be a static argument.
    fixed = [jax.jit(lambda model, inputs: model.apply(variables, inputs), static_argnums=0)(model, inputs)]
    fixed += [model.apply(variables, inputs), apply(jax.random.key(3))]
    chex.assert_trees_all_close(*fixed[:2], rtol=1e-6)
    assert jnp.any(fixed[0] != fixed[2])


def test_nnx_one_cluster_is_its_dense_attention():
    inputs, mask = inputs_of(), padding()[:, None, None, :]
    dense = NNX(nnx.dot_product_attention, nnx.Rngs(0))
    ours = NNX(as_attention_fn(EXACT, rngs=nnx.Rngs(hashing=3)), nnx.Rngs(0))

    @nnx.jit
    def run(model):
        def loss(model):
            output = nnx.remat(lambda model: model(inputs, mask))(model)
            return jnp.sum(output**2), output

        (_, output), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        return output, nnx.to_pure_dict(grads)

    expected, result = (jax.tree.leaves(run(model)) for model in (dense, ours))
    chex.assert_trees_all_close(result, expected, rtol=1e-4, atol=1e-5)


def test_nnx_draws_from_the_stream_hashing():
    inputs = inputs_of()

    def outputs(seed):
        model = NNX(as_attention_fn(CLUSTERED, rngs=nnx.Rngs(hashing=seed)), nnx.Rngs(0))
        run = nnx.jit(lambda model: model(inputs))
        return run(model), run(model)

    first, second = outputs(1)
    chex.assert_trees_all_equal(outputs(1), (first, second))
    assert jnp.any(first != second)
    assert jnp.any(first != outputs(2)[0])


def test_causal_attention_is_asked_for_by_an_option_or_by_nnx():
    inputs = inputs_of()
    leaking = dataclasses.replace(CLUSTERED, clusters_see_future=True)
    model = NNX(as_attention_fn(leaking, is_causal=True, rngs=nnx.Rngs(hashing=0)), nnx.Rngs(0))
    asked = NNX(as_attention_fn(leaking, rngs=nnx.Rngs(hashing=0)), nnx.Rngs(0))
    output = model(inputs)
    chex.assert_trees_all_close(asked.layer(inputs, is_causal=True), output, rtol=1e-6)
    changed = model.layer(inputs.at[:, -1].set(5.0))
    # Hash values of earlier tokens stay, but their clusters may change: the first token sees itself alone.
    chex.assert_trees_all_close(changed[:, 0], output[:, 0], rtol=1e-6)


QUERY = jnp.ones((2, LENGTH, HEADS, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dropout_rate": 0.1}, "dropout of attention weights.*dropout_rate=0.1"),
        ({"bias": jnp.ones((2, HEADS, LENGTH, LENGTH))}, "bias is not supported"),
        ({"module": object()}, "sow_weights is not supported"),
        ({"precision": "highest"}, "precision is not supported"),
        ({"mask": jnp.ones((2, 1, LENGTH, LENGTH))}, "mask should be a key-padding mask.*is_causal=True"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(arguments, message):
    bound = as_attention_fn(CLUSTERED).bind({}, rngs={"hashing": jax.random.key(0)})
    for attend in (bound, as_attention_fn(CLUSTERED, rngs=nnx.Rngs(hashing=0))):
        with pytest.raises(ValueError, match=message):
            attend(QUERY, QUERY, QUERY, **arguments)
    # A rate alone changes nothing where Flax says that nothing is to be dropped.
    assert attend(QUERY, QUERY, QUERY, dropout_rate=0.1, deterministic=True).shape == QUERY.shape


def test_nnx_without_rngs_is_always_the_same():
    model = NNX(as_attention_fn(CLUSTERED), nnx.Rngs(0))
    hash(nnx.split(model)[0])  # what nnx.jit caches by
    run = nnx.jit(lambda model, inputs: model(inputs))
    chex.assert_trees_all_equal(run(model, inputs_of()), run(model, inputs_of()))
    drawn = NNX(as_attention_fn(CLUSTERED, rngs=nnx.Rngs(hashing=0)), nnx.Rngs(0))
    hash(nnx.split(drawn)[0])


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_flaxs_own_padding_masks_go_in_if_said_so(framework):
    inputs, pad = inputs_of(), padding()
    ours = as_attention_fn(Dense(), mask_is_padding=True)
    if framework == "linen":
        mask = linen.make_attention_mask(pad, pad)
        variables = Linen(linen.dot_product_attention).init(jax.random.key(0), inputs)
        outputs = [Linen(of).apply(variables, inputs, mask) for of in (linen.dot_product_attention, ours)]
    else:
        mask = nnx.make_attention_mask(pad, pad)
        outputs = [NNX(of, nnx.Rngs(0))(inputs, mask) for of in (nnx.dot_product_attention, ours)]
    expected, output = (jnp.where(pad[..., None], array, 0) for array in outputs)
    chex.assert_trees_all_close(output, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="mask_is_padding=True"):
        as_attention_fn(CLUSTERED)(QUERY, QUERY, QUERY, mask=mask)


def test_what_would_be_silently_wrong_in_flax_is_refused():
    attend = as_attention_fn(Dense(), mask_is_padding=True)
    causal = linen.combine_masks(
        linen.make_attention_mask(padding(), padding()), linen.make_causal_mask(padding())
    )
    with pytest.raises(ValueError, match="hides a key from some queries alone.*is_causal=True"):
        attend(QUERY, QUERY, QUERY, mask=causal)
    # A step of decoding: one query, and a cache of keys.
    with pytest.raises(ValueError, match="as many queries as keys in Flax"):
        as_attention_fn(CLUSTERED, is_causal=True)(QUERY[:, :1], QUERY, QUERY)


def test_canopy_goes_in_as_well():
    method = Canopy(1, 4, 2)
    attend = as_attention_fn(method, rngs=nnx.Rngs(hashing=0))
    query, key, value = (jax.random.normal(jax.random.key(seed), QUERY.shape) for seed in range(3))
    padding = jnp.arange(LENGTH)[None, None, None] < LENGTH - 2
    output = attend(query, key, value, mask=padding)
    rng = nnx.Rngs(hashing=0)["hashing"].fork()()
    chex.assert_trees_all_close(output, attention(query, key, value, method=method, mask=padding, rng=rng))
    with pytest.raises(ValueError, match="Canopy and Centroids cannot be causal"):
        attend(query, key, value, is_causal=True)
