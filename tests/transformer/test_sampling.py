"""What is written is what the whole pass says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax import Dense, Local, Performer
from tests.transformer.llamas import write_llama
from transformer import load_causal
from transformer.sampling import choose, generate


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("generate") / "tiny.gguf")


PROMPT = [5, 9, 33, 2]


def with_ends(model, *tokens):
    """The model with other tokens that end a text."""
    return model.clone(config=dataclasses.replace(model.config, eos_token_id=tokens))


def uncached(model, params, prompt, num_tokens):
    """The likeliest tokens, each by a pass over all before it; and the logits."""
    tokens = list(prompt)
    padded = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    for _ in range(num_tokens):
        whole = np.zeros((1, len(prompt) + num_tokens), int)
        whole[0, : len(tokens)] = tokens
        tokens.append(int(np.argmax(padded(whole)[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("method", [Dense(), Local(window=9)])
def test_likeliest_tokens_are_those_of_the_whole_pass(method, path):
    model, params, _ = load_causal(path, attention=method)
    model = with_ends(model)
    expected = uncached(model, params, PROMPT, 12)
    assert len(set(expected)) > 3
    found = generate(model, params, PROMPT, 12, rng=jax.random.key(0))
    assert list(found) == expected


def test_the_end_of_a_text_ends_it(path):
    model, params, _ = load_causal(path)
    endless = with_ends(model)
    expected = list(generate(endless, params, PROMPT, 12, rng=jax.random.key(0)))
    stopped = generate(with_ends(model, expected[5]), params, PROMPT, 12, rng=jax.random.key(0))
    assert list(stopped) == expected[: expected.index(expected[5])]


def test_the_seed_decides_what_is_drawn(path):
    model, params, _ = load_causal(path)

    def drawn(seed, num_tokens):
        rng = jax.random.key(seed)
        return list(generate(with_ends(model), params, PROMPT, num_tokens, rng=rng, temperature=3.0))

    assert drawn(0, 10)[:6] == drawn(0, 6)
    assert drawn(0, 10) != drawn(1, 10)


def test_choices_are_among_the_likeliest():
    chances = np.array([[0.05, 0.4, 0.3, 0.25], [0.6, 0.2, 0.1, 0.1]])
    logits = jnp.log(jnp.asarray(chances, jnp.float32))

    def drawn(row, **options):
        rngs = jax.random.split(jax.random.key(0), 2000)
        found = jax.vmap(lambda rng: choose(logits, rng, **options))(rngs)[:, row]
        return np.bincount(found, minlength=4) / 2000

    assert list(choose(logits, jax.random.key(0))) == [1, 0]
    np.testing.assert_allclose(drawn(0, temperature=1.0), chances[0], atol=0.04)
    squared = chances[0] ** 2 / np.sum(chances[0] ** 2)
    np.testing.assert_allclose(drawn(0, temperature=0.5), squared, atol=0.04)
    np.testing.assert_allclose(drawn(0, temperature=1.0, top_k=2), [0, 4 / 7, 3 / 7, 0], atol=0.04)
    np.testing.assert_allclose(drawn(1, temperature=1.0, top_k=3), [0.6, 0.2, 0.1, 0.1], atol=0.04)  # ties
    np.testing.assert_allclose(drawn(0, temperature=1.0, top_p=0.6), [0, 4 / 7, 3 / 7, 0], atol=0.04)
    np.testing.assert_allclose(drawn(1, temperature=1.0, top_p=0.3), [1, 0, 0, 0], atol=0)
    np.testing.assert_allclose(drawn(1, temperature=1.0, top_p=0.0), [1, 0, 0, 0], atol=0)


def test_what_cannot_be_is_refused(path):
    model, params, _ = load_causal(path, attention=Performer())
    rng = jax.random.key(0)
    with pytest.raises(ValueError, match="Performer cannot decode token by token"):
        next(generate(model, params, PROMPT, 3, rng=rng))
    with pytest.raises(ValueError, match="the prompt has no tokens"):
        next(generate(model, params, [], 3, rng=rng))
    with pytest.raises(ValueError, match="positions for 256 tokens, but got 257"):
        next(generate(model, params, PROMPT, 253, rng=rng))
