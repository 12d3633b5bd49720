"""Rows taken by gathers alone, and the derivatives of sums of pieces."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from smyrf_jax.batching import UNROLLED
from smyrf_jax.chips import SOURCE_BYTES
from smyrf_jax.rows import of_its_piece, sums_of_pieces, take_rows, take_rows_of_each


@pytest.fixture
def as_accelerators(monkeypatch):
    """Traces what accelerators run."""

    def default_of(*arguments, default, **platforms):
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", default_of)


@pytest.mark.usefixtures("as_accelerators")
@pytest.mark.parametrize(("dtype", "empty"), [("float32", True), ("bfloat16", False), ("int32", True)])
@pytest.mark.parametrize(
    "number",
    [1, 3, 20],
    ids=["one at a time", "three at a time", "all at once"],
)
def test_rows_of_a_few_at_a_time_are_those_of_each(number, empty, dtype, monkeypatch):
    length, width, of = 24, 5, 6
    monkeypatch.setitem(SOURCE_BYTES, "v3", number * length * 128 * jnp.dtype(dtype).itemsize)
    assert of > UNROLLED  # so that one at a time is a loop, three are not
    tokens = jax.random.normal(jax.random.key(0), (of, length, width)).astype(dtype)
    order = jax.random.randint(jax.random.key(1), (of, 3, 10), 0, length + empty)
    found = jax.jit(lambda *arrays: take_rows_of_each(*arrays, empty=empty))(tokens, order)
    expected = jax.vmap(take_rows)(tokens, order)
    chex.assert_trees_all_equal_shapes_and_dtypes(found, expected)
    np.testing.assert_array_equal(found, expected)
    if empty:
        np.testing.assert_array_equal(found[order == length], 0)
    mapped = jax.jit(jax.vmap(lambda *arrays: take_rows_of_each(*arrays, empty=empty)))
    split = (array.reshape(2, 3, *array.shape[1:]) for array in (tokens, order))
    np.testing.assert_array_equal(mapped(*split).reshape(expected.shape), expected)


@pytest.mark.usefixtures("as_accelerators")
@pytest.mark.parametrize(("length", "slots"), [(0, 4), (4, 0)])
def test_no_tokens_and_no_slots(length, slots):
    order = jnp.full((2, slots), length, jnp.int32)
    found = take_rows_of_each(jnp.ones((2, length, 3)), order)
    chex.assert_trees_all_equal(found, jnp.zeros((2, slots, 3)))


def pieces(batch=2, length=19, number=4, size=5, kept=15):
    """Orders of pieces, of the last of which and some tokens in none; and the piece of each token."""
    generator = np.random.default_rng(0)
    order = np.full((batch, number * size), length, np.int32)
    piece = np.full((batch, length), -1, np.int32)
    for row in range(batch):
        slots = generator.permutation((number - 1) * size)[:kept]
        tokens = generator.permutation(length)[: len(slots)]
        order[row, slots] = tokens
        piece[row, tokens] = slots // size
    return jnp.asarray(order.reshape(batch, number, size)), jnp.asarray(piece)


@pytest.mark.parametrize("accelerators", [False, True])
def test_sums_of_pieces_and_their_derivatives(accelerators, request):
    if accelerators:
        request.getfixturevalue("as_accelerators")
    order, piece = pieces()
    inside = jax.nn.one_hot(piece, 4)  # [A, T, P]
    assert jnp.any(piece < 0)
    assert not jnp.any(piece == 3)
    rngs = jax.random.split(jax.random.key(0), 4)
    tokens, of_tokens = (jax.random.normal(rng, (2, 19, 3)) for rng in rngs[:2])
    means, of_means = (jax.random.normal(rng, (2, 4, 3)) for rng in rngs[2:])

    def in_two(function, vectors):
        """Of one column and of two, side by side."""
        return jnp.concatenate(function((vectors[..., :1], vectors[..., 1:]), order, piece), axis=-1)

    def plain_sums(vectors):
        return jnp.einsum("atp,atw->apw", inside, vectors, precision="highest")

    def plain_spread(vectors):
        return jnp.einsum("atp,apw->atw", inside, vectors, precision="highest")

    for ours, plain, vectors, to in (
        (lambda vectors: in_two(sums_of_pieces, vectors), plain_sums, tokens, of_means),
        (lambda vectors: in_two(of_its_piece, vectors), plain_spread, means, of_tokens),
    ):

        def both(function, vectors, to):
            found, pull = jax.vjp(function, vectors)
            return found, *pull(to)

        found, expected = (jax.jit(both, static_argnums=0)(of, vectors, to) for of in (ours, plain))
        chex.assert_trees_all_close(found, expected, atol=1e-6)

        def penalty(function, vectors):
            """Of first derivatives: its gradient is a second one."""
            return jnp.sum(jnp.sin(jax.grad(lambda vectors: jnp.sum(function(vectors) ** 3))(vectors)))

        found, expected = (
            jax.jit(jax.grad(penalty, argnums=1), static_argnums=0)(of, vectors) for of in (ours, plain)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_derivatives_are_gathers():
    """A scatter costs a TPU seventy gathers."""
    order, piece = pieces()

    def loss(vectors):
        (found,) = of_its_piece(sums_of_pieces((vectors,), order, piece), order, piece)
        return jnp.sum(found**2)

    text = jax.jit(jax.grad(loss)).lower(jnp.ones((2, 19, 3))).as_text()
    assert "gather" in text
    assert "scatter" not in text
