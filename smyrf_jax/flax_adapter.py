"""Attention of any method as the attention_fn of Flax's multi-head attention, linen and nnx."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from smyrf_jax.attention import attention
from smyrf_jax.methods import Canopy, Method

# Of the rng collection in linen, and of the stream in nnx.
HASHING = "hashing"


def as_attention_fn(
    method: Method = Canopy(),  # noqa: B008
    *,
    is_causal: bool = False,
    mask_is_padding: bool = False,
    rngs: nnx.Rngs | None = None,
) -> Callable[..., Array]:
    """An attention_fn for flax.linen.MultiHeadDotProductAttention or flax.nnx.MultiHeadAttention.

    Random numbers are drawn again in each call: in linen from the rng collection "hashing"
    (`model.apply(variables, inputs, rngs={"hashing": jax.random.key(0)})`), in nnx from the stream "hashing"
    of `rngs` (or its default stream). Without them it is always the same, as for `attention`.

    Masks are key-padding masks [*B, 1 or N, 1, S]. What Flax can ask for and this cannot do (dropout of
    attention weights, bias, sown weights, a precision, einsums of its own) raises ValueError and is never
    left out silently.

    Args:
        method: of `attention`.
        is_causal: query i sees key j <= i only.
        mask_is_padding: the masks [*B, 1 or N, T, S] that Flax makes are of padding alone, as those of
            make_attention_mask(pad, pad): a key counts for all queries if it counts for one, and a query that
            sees no key is padding. A mask that hides more, such as a causal one, is refused if its values are
            known; under jit it is not noticed.
        rngs: for nnx.
    """
    if rngs is None:
        return LinenAttention(method, is_causal, mask_is_padding)
    return NNXAttention(method, is_causal, mask_is_padding, rngs)


def hashing_rng(module: linen.Module) -> Array | None:
    """A key of the collection "hashing" for a linen module, None where it is not given."""
    return module.make_rng(HASHING) if module.scope is not None and module.has_rng(HASHING) else None


class LinenAttention(linen.Module):
    """See `as_attention_fn`. Holds no variables; also for nnx, where nothing is to be drawn again."""

    method: Method
    is_causal: bool = False
    mask_is_padding: bool = False

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None = None,
        mask: Array | None = None,
        broadcast_dropout: bool = True,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        force_fp32_for_softmax: bool = False,
        einsum_dot_general: Any = None,
        qk_attn_weights_einsum: Any = None,
        attn_weights_value_einsum: Any = None,
        is_causal: bool = False,
    ) -> Array:
        del broadcast_dropout, dropout_rng, force_fp32_for_softmax  # the softmax is float32 in any case
        _refuse_dropout(dropout_rate, deterministic)
        _refuse(
            bias=bias,
            precision=precision,
            sow_weights=module,
            einsum_dot_general=einsum_dot_general,
            qk_attn_weights_einsum=qk_attn_weights_einsum,
            attn_weights_value_einsum=attn_weights_value_einsum,
        )
        arrays = _in_dtype(query, key, value, dtype)
        return _attend(self, *arrays, mask, is_causal=is_causal, rng=hashing_rng(self))


class NNXAttention(nnx.Module):
    """See `as_attention_fn`."""

    def __init__(self, method: Method, is_causal: bool, mask_is_padding: bool, rngs: nnx.Rngs):
        self.method, self.is_causal, self.mask_is_padding = method, is_causal, mask_is_padding
        self.hashing = rngs[HASHING].fork()

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None = None,
        mask: Array | None = None,
        dropout_rng: Array | None = None,
        dropout_rate: float = 0.0,
        broadcast_dropout: bool = True,
        deterministic: bool = False,
        dtype: Any = None,
        precision: Any = None,
        module: Any = None,
        is_causal: bool = False,
    ) -> Array:
        del broadcast_dropout, dropout_rng
        _refuse_dropout(dropout_rate, deterministic)
        _refuse(bias=bias, precision=precision, sow_weights=module)
        arrays = _in_dtype(query, key, value, dtype)
        return _attend(self, *arrays, mask, is_causal=is_causal, rng=self.hashing())


def _refuse(**arguments: Any) -> None:
    for name, argument in arguments.items():
        if argument is not None:
            raise ValueError(f"{name} is not supported by this attention; leave it out.")


def _refuse_dropout(rate: float, deterministic: bool) -> None:
    if rate > 0 and not deterministic:
        raise ValueError(
            f"dropout of attention weights is not supported by this attention, but got "
            f"dropout_rate={rate}. Set dropout_rate=0 and drop the output of the attention instead, "
            "or call with deterministic=True."
        )


def _in_dtype(query: Array, key: Array, value: Array, dtype: Any) -> tuple[Array, Array, Array]:
    """Arrays in the dtype that Flax asks for."""
    if dtype is None:
        dtype = jnp.promote_types(jnp.promote_types(query.dtype, key.dtype), value.dtype)
    return query.astype(dtype), key.astype(dtype), value.astype(dtype)


def _of_padding(mask: Array) -> tuple[Array, Array]:
    """The keys [*B, N, 1, S] and the queries [*B, N, 1, T] of a padding mask [*B, N, T, S]."""
    keys, queries = jnp.any(mask, axis=-2, keepdims=True), jnp.any(mask, axis=-1, keepdims=True)
    if not isinstance(mask, jax.core.Tracer) and jnp.any(mask != keys & queries):
        raise ValueError(
            "mask_is_padding=True, but the mask hides a key from some queries alone. For causal attention: "
            "as_attention_fn(is_causal=True), and a mask of padding alone."
        )
    return keys, jnp.swapaxes(queries, -1, -2)


def _attend(
    settings: LinenAttention | NNXAttention,
    query: Array,
    key: Array,
    value: Array,
    mask: Array | None,
    *,
    is_causal: bool,
    rng: Array | None,
) -> Array:
    query_mask = None
    if mask is not None:
        mask = mask.astype(bool)  # Flax's are numbers
        if settings.mask_is_padding:
            mask, query_mask = _of_padding(mask)
        elif mask.shape[-2] != 1:
            raise ValueError(
                f"mask should be a key-padding mask [*B, 1 or N, 1, S], but got {mask.shape=}. If it is of "
                "padding alone, as make_attention_mask(pad, pad) is: as_attention_fn(mask_is_padding=True). "
                "For causal attention: as_attention_fn(is_causal=True), and no mask."
            )
    is_causal = is_causal or settings.is_causal
    if is_causal and query.shape[-3] != key.shape[-3]:
        raise ValueError(
            f"is_causal wants as many queries as keys in Flax, but got {query.shape=} and {key.shape=}. A "
            "cache is decoded without it: Flax's mask of the cache hides what comes later."
        )
    output = attention(
        query,
        key,
        value,
        method=settings.method,
        mask=mask,
        query_mask=query_mask,
        rng=rng,
        is_causal=is_causal,
    )
    return jnp.asarray(output)
