"""Llamas against the reference implementation, and what must hold for any of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Dense, Local, Method, Smyrf
from tests.transformer.llamas import random_llama, reference_logits
from transformer import load_causal
from transformer.llama import Llama, rotate

TOKENS = np.random.default_rng(0).integers(0, 64, (3, 24))
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
        {"num_key_value_heads": 4, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh"},
        {"attention_bias": True, "mlp_bias": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
        {"rope_parameters": LLAMA3},
        {"max_shard_size": "20kB"},
    ],
    ids=["untied", "tied", "wide heads", "biases", "linear", "llama3", "shards"],
)
def test_logits_are_those_of_the_reference(changes, tmp_path):
    reference = random_llama(tmp_path, **changes)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in changes)
    model, params, tokenizer = load_causal(tmp_path)
    assert tokenizer is None
    logits = jax.jit(model.apply)({"params": params}, TOKENS)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, reference_logits(reference, TOKENS), atol=1e-4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a random model, the reference, and ours."""
    folder = tmp_path_factory.mktemp("llama")
    return folder, random_llama(folder), load_causal(folder)


def test_padding_may_stand_on_either_side(tiny):
    _, reference, (model, params, _) = tiny
    place = np.arange(24)
    kept = np.stack([place >= 0, place >= 7, place < 15])
    logits = model.apply({"params": params}, TOKENS, kept)
    expected = reference_logits(reference, TOKENS, kept)
    np.testing.assert_allclose(logits[kept], expected[kept], atol=1e-4)
    alone = model.apply({"params": params}, TOKENS[1:2, 7:])
    np.testing.assert_allclose(logits[1:2, 7:], alone, atol=1e-4)


def test_a_rotation_knows_distances_alone():
    query, key = (jax.random.normal(rng, (1, 5, 1, 8)) for rng in jax.random.split(jax.random.key(0)))
    turns = np.array([1.0, 0.3, 0.1, 0.03])

    def products(first):
        angles = jnp.asarray((first + np.arange(5))[:, None] * turns[None])
        return jnp.einsum("btnd,bsnd->bts", rotate(query, angles), rotate(key, angles))

    np.testing.assert_allclose(products(0), products(11), atol=1e-4)
    assert np.max(np.abs(products(0) - jnp.einsum("btnd,bsnd->bts", query, key))) > 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Watched(Method):
    """Dense attention that notes what it is asked for."""

    calls: list = dataclasses.field(default_factory=list)

    def attend(self, query, key, value, mask, *, rng, scale, is_causal, query_mask=None):
        self.calls.append((query.shape, key.shape, is_causal, mask is query_mask))
        return Dense().attend(query, key, value, mask, rng=rng, scale=scale, is_causal=is_causal)


def test_attention_may_differ_by_layer(tiny):
    folder, _, (model, params, _) = tiny
    watched = Watched()
    mixed = model.clone(attention=[watched, Local(window=8)])
    assert mixed.apply({"params": params}, TOKENS).shape == (3, 24, 64)
    assert watched.calls == [((3, 24, 4, 8), (3, 24, 2, 8), True, True)]
    with pytest.raises(ValueError, match="one of each of 2 layers, but got 1"):
        model.clone(attention=[Dense()]).apply({"params": params}, TOKENS)
    with pytest.raises(ValueError, match="Smyrf cannot be causal"):
        load_causal(folder, attention=Smyrf(cluster_size=4)).model.apply({"params": params}, TOKENS)


def test_no_logit_depends_on_a_later_token(tiny):
    _, _, (model, params, _) = tiny
    changed = TOKENS.copy()
    changed[:, 13:] = (changed[:, 13:] + 1) % 64
    for attention in (Dense(), Local(window=8)):
        both = [model.clone(attention=attention).apply({"params": params}, of) for of in (TOKENS, changed)]
        np.testing.assert_array_equal(both[0][:, :13], both[1][:, :13])
        assert np.max(np.abs(both[0][:, 13:] - both[1][:, 13:])) > 0.1


def test_what_is_attended_is_sown(tiny):
    _, _, (model, params, _) = tiny
    _, variables = model.apply({"params": params}, TOKENS, mutable="intermediates")
    sown = variables["intermediates"]["layers_1"]["self_attn"]
    shapes = {name: array.shape for name, (array,) in sown.items()}
    assert shapes == {
        "queries": (3, 24, 4, 8),
        "keys": (3, 24, 2, 8),
        "values": (3, 24, 2, 8),
        "attended": (3, 24, 4, 8),
    }


def test_hashing_may_be_drawn(tiny):
    _, _, (model, params, _) = tiny
    smyrf = model.clone(attention=Smyrf(num_hashes=1, cluster_size=6, clusters_see_future=True))

    def logits_of(rngs):
        return smyrf.apply({"params": params}, TOKENS, rngs=rngs)

    np.testing.assert_array_equal(logits_of(None), logits_of(None))
    drawn = [logits_of({"hashing": jax.random.key(seed)}) for seed in range(2)]
    assert np.max(np.abs(drawn[0] - drawn[1])) > 1e-3


@pytest.mark.parametrize("method", [Dense(), Local(window=11)])
def test_token_by_token_is_all_at_once(method, tiny):
    _, _, (model, params, _) = tiny
    model = model.clone(attention=method)
    expected = model.apply({"params": params}, TOKENS)
    logits, caches = model.apply({"params": params}, TOKENS[:, :5], length=24, method="prefill")
    np.testing.assert_allclose(logits, expected[:, 4], atol=1e-4)
    step = jax.jit(lambda tokens, caches: model.apply({"params": params}, tokens, caches, method="step"))
    for place in range(5, 24):
        logits, caches = step(TOKENS[:, place], caches)
        np.testing.assert_allclose(logits, expected[:, place], atol=1e-4)
    assert np.all(np.isnan(step(TOKENS[:, 0], caches)[0]))
    with pytest.raises(ValueError, match="room for length=24 tokens, and is full"):
        model.apply({"params": params}, TOKENS[:, 0], caches, method="step")


def test_inputs_that_cannot_be_are_refused(tiny):
    _, _, (model, params, _) = tiny

    def run(tokens, **options):
        return model.apply({"params": params}, tokens, **options)

    with pytest.raises(ValueError, match="positions for 64 tokens, but got 65; load it with max_length=65"):
        run(np.zeros((1, 65), int))
    with pytest.raises(ValueError, match="positions for 64 tokens, but got 65"):
        run(TOKENS, length=65, method="prefill")
    with pytest.raises(ValueError, match=r"tokens should be 0 \.\. 63, .* but got 64"):
        run(np.array([[3, 64]]))
    assert np.all(np.isnan(jax.jit(run)(np.array([[3, -1]]))[:, 1]))
    with pytest.raises(ValueError, match=r"kept should be \(3, 24\)"):
        run(TOKENS, kept=np.ones((3, 23), bool))
    with pytest.raises(ValueError, match="Smyrf cannot decode token by token: take Dense, Local or"):
        Llama(model.config, Smyrf()).apply({"params": params}, TOKENS, length=30, method="prefill")
