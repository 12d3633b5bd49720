"""Attentions of this package as the attention_fn of Flax's multi-head attention, linen and nnx."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax import Array

from smyrf_jax.attention import smyrf_attention


def as_attention_fn(
    attention: Callable[..., Any] = smyrf_attention, *, rngs: nnx.Rngs | None = None, **options: Any
) -> Callable[..., Array]:
    """An attention_fn for flax.linen.MultiHeadDotProductAttention or flax.nnx.MultiHeadAttention.

    linen: `as_attention_fn(num_hashes=4, cluster_size=128)`; each call draws from the rng collection
    "hashing": `model.apply(variables, inputs, rngs={"hashing": jax.random.key(0)})`.
    nnx: `as_attention_fn(num_hashes=4, cluster_size=128, rngs=nnx.Rngs(hashing=0))`; each call draws from
    the stream "hashing" (or the default stream).

    Masks are key-padding masks [*B, 1 or N, 1, S]; for causal attention give the option is_causal=True.
    What Flax can ask for and this cannot do (dropout of attention weights, bias, sown weights, a
    precision, einsums of its own) raises ValueError and is never left out silently.

    Args:
        attention: smyrf_attention, or another attention with its signature.
        rngs: for nnx.
        **options: of the attention, such as num_hashes and cluster_size.
    """
    if rngs is None:
        return LinenAttention(attention, options)
    return NNXAttention(attention, options, rngs)


class LinenAttention(linen.Module):
    """See `as_attention_fn`."""

    attention: Callable[..., Any]
    options: Mapping[str, Any]

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
        if self.scope is None:
            raise ValueError(
                "as_attention_fn() without rngs is for flax.linen. For flax.nnx pass rngs, "
                "for example as_attention_fn(..., rngs=nnx.Rngs(hashing=0))."
            )
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
        attend = _with_options(self.attention, self.options, is_causal, dtype)
        return attend(query, key, value, mask, rng=self.make_rng("hashing"))


class NNXAttention(nnx.Module):
    """See `as_attention_fn`."""

    def __init__(self, attention: Callable[..., Any], options: Mapping[str, Any], rngs: nnx.Rngs):
        self.attention = attention
        self.options = nnx.static(dict(options))
        self.hashing = rngs["hashing"].fork()

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
        attend = _with_options(self.attention, self.options, is_causal, dtype)
        return attend(query, key, value, mask, rng=self.hashing())


def _with_options(
    attention: Callable[..., Any], options: Mapping[str, Any], is_causal: bool, dtype: Any
) -> Callable[..., Array]:
    """The attention, for arrays and masks as Flax gives them."""
    options = {**options, "is_causal": is_causal or options.get("is_causal", False)}

    def attend(query: Array, key: Array, value: Array, mask: Array | None, *, rng: Array) -> Array:
        return attention(*_as_arguments(query, key, value, mask, dtype), rng=rng, **options)

    return attend


def _refuse(**arguments: Any) -> None:
    for name, argument in arguments.items():
        if argument is not None:
            raise ValueError(f"{name} is not supported by clustered attention; leave it out.")


def _refuse_dropout(rate: float, deterministic: bool) -> None:
    if rate > 0 and not deterministic:
        raise ValueError(
            f"dropout of attention weights is not supported by clustered attention, but got "
            f"dropout_rate={rate}. Set dropout_rate=0 and drop the output of the attention instead, "
            "or call with deterministic=True."
        )


def _as_arguments(
    query: Array, key: Array, value: Array, mask: Array | None, dtype: Any
) -> tuple[Array, Array, Array, Array | None]:
    """Arrays in the dtype that Flax asks for, and its numeric masks as booleans."""
    if mask is not None:
        mask = mask.astype(bool)
        if mask.shape[-2] != 1:
            raise ValueError(
                f"mask should be a key-padding mask [*B, 1 or N, 1, S], but got {mask.shape=}. For padded "
                "keys: padding[:, None, None, :]. For causal attention: as_attention_fn(is_causal=True, ...)."
            )
    dtype = (
        jnp.promote_types(jnp.promote_types(query.dtype, key.dtype), value.dtype) if dtype is None else dtype
    )
    query, key, value = jax.tree.map(lambda array: array.astype(dtype), (query, key, value))
    return query, key, value, mask
