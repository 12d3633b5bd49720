"""Positive random features: every pair's weight as a product of a query's and a key's features."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from smyrf_jax.blockwise import Estimates
from smyrf_jax.clustering import Clustering
from smyrf_jax.far_field.far_field import FarField
from smyrf_jax.floats import finite_min, smallest_normal
from smyrf_jax.rows import inner_products
from smyrf_jax.sharding import vary_alike

# Tokens a step of causal features.
CHUNK = 128


def orthogonal_projection(
    rng: Key[Array, ""], num_rows: int, width: int, dtype: Any = jnp.float32
) -> Float[Array, "M D"]:
    """Gaussian rows, orthogonal within blocks of D, with the lengths that independent ones have.

    Source: Performer (arXiv:2009.14794), section 2.4.
    """
    blocks = -(-num_rows // width)
    directions_rng, lengths_rng = jax.random.split(rng)
    gaussian = jax.random.normal(directions_rng, (blocks, width, width), dtype)
    directions = jnp.linalg.qr(gaussian)[0].reshape(blocks * width, width)[:num_rows]
    lengths = jnp.linalg.norm(jax.random.normal(lengths_rng, (num_rows, width), dtype), axis=-1)
    rows: Array = lengths[:, None] * directions
    return rows


def positive_features(
    vectors: Float[Array, "*A D"], projection: Float[Array, "M D"]
) -> tuple[Float[Array, "*A F"], Float[Array, "*A"]]:
    """Features with E[features(x) . features(y)] = e^(x . y), as features * e^log_scale.

    Args:
        vectors: x, [..., D].
        projection: [M, D], rows with standard normal entries.

    Returns:
        Features in 0 .. 1, [..., 2 M] (of each row and of its opposite, cosh, which has less variance), and
        their log scale [...].

    Source: Performer (arXiv:2009.14794), section 2.3.
    """
    dtype = jnp.promote_types(vectors.dtype, jnp.float32)
    vectors = vectors.astype(dtype)
    along = jnp.einsum("...d,md->...m", vectors, projection, preferred_element_type=dtype)
    along = jnp.concatenate([along, -along], axis=-1)
    top = jax.lax.stop_gradient(jnp.max(along, axis=-1))
    scale = top - inner_products(vectors, vectors, dtype) / 2 - math.log(along.shape[-1]) / 2
    return jnp.exp(along - top[..., None]), scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Features(FarField):
    """Every pair by positive random features; in clustered_attention, that is Scatterbrain.

    Its output alone is Performer's attention. Masked keys count in neither sum. Scales are carried as
    logarithms: nothing is exponentiated before its maximum is taken off. The scale must be positive.

    projection: [P, D], of `orthogonal_projection`; redraw it as often as wished. There are 2 P features.

    Source: Scatterbrain (arXiv:2110.15343), section 4; Performer (arXiv:2009.14794).
    """

    projection: Any

    def check(self, width: int, *, scale: Any, is_causal: bool, window: int | None) -> None:
        """Raises ValueError for a projection of another width, and a scale known not to be positive."""
        if self.projection.ndim != 2 or self.projection.shape[-1] != width:
            raise ValueError(f"projection should be [P, {width}], but got shape {self.projection.shape}.")
        if not isinstance(scale, jax.core.Tracer) and not scale > 0:
            raise ValueError(f"random features want a positive scale, got scale={scale}.")

    def estimates(
        self,
        query: Array,
        key: Array,
        value: Array,
        clustering: Clustering | None,
        mask: Array | None,
        *,
        scale: Any,
        is_causal: bool,
        complete: bool = False,
    ) -> Estimates:
        """See `FarField`. The clustering does not matter."""
        dtype = jnp.promote_types(query.dtype, jnp.float32)
        root = jnp.sqrt(jnp.asarray(scale, dtype))
        queries, offset = positive_features(root * query.astype(dtype), self.projection)
        keys, key_scale = positive_features(root * key.astype(dtype), self.projection)
        low = finite_min(keys.dtype)
        if mask is not None:
            key_scale = jnp.where(jnp.moveaxis(mask[..., 0, :], -1, -2), key_scale, low)
        # One scale for all keys of a row: that of the largest.
        top = jax.lax.stop_gradient(jnp.max(key_scale, axis=-2, keepdims=True, initial=low))
        keys = keys * jnp.exp(jnp.where(key_scale > low, key_scale - top, low))[..., None]
        offset = offset + jnp.where(top > low, top, 0.0)
        ones = jnp.ones((*value.shape[:-1], 1), keys.dtype)
        summed = _sums(queries, keys, jnp.concatenate([value.astype(keys.dtype), ones], axis=-1), is_causal)
        total = summed[..., -1]
        found = total > 4 * smallest_normal(total.dtype)
        log_total = jnp.log(jnp.where(found, total, 1.0))
        logsumexp = jnp.where(found, offset + log_total, low)
        # The gradient of a quotient has its square, which a small total does not have in float32.
        output = jnp.where(found[..., None], summed[..., :-1] * jnp.exp(-log_total)[..., None], 0.0)
        return Estimates(output, logsumexp, queries, keys, offset, linear=True)


def _sums(queries: Array, keys: Array, values: Array, is_causal: bool) -> Array:
    """sum_j (query_i . key_j) value_j, [*B, T, N, V]; of j <= i if causal."""
    if not is_causal:
        return jnp.einsum("...tnf,...nfv->...tnv", queries, jnp.einsum("...snf,...snv->...nfv", keys, values))
    num_queries, num_keys = queries.shape[-3], keys.shape[-3]
    length = -(-max(num_queries, num_keys) // CHUNK) * CHUNK

    def chunks(array: Array) -> Array:
        """[chunks, *B, CHUNK, N, ...], filled up at the end."""
        widths = [(0, 0)] * array.ndim
        widths[-3] = (0, length - array.shape[-3])
        array = jnp.pad(array, widths)
        array = array.reshape(*array.shape[:-3], length // CHUNK, CHUNK, *array.shape[-2:])
        return jnp.moveaxis(array, -4, 0)

    @jax.checkpoint
    def step(before: Array, arrays: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        query, key, value = arrays
        inside = jnp.tril(jnp.ones((CHUNK, CHUNK), bool))[:, None, :]
        pairs = jnp.where(
            jnp.broadcast_to(inside, (*query.shape[:-2], query.shape[-2], CHUNK)),
            jnp.einsum("...tnf,...snf->...tns", query, key),
            0.0,
        )
        output = jnp.einsum("...tns,...snv->...tnv", pairs, value)
        output += jnp.einsum("...tnf,...nfv->...tnv", query, before)
        return before + jnp.einsum("...snf,...snv->...nfv", key, value), output

    shape = (*keys.shape[:-3], *keys.shape[-2:], values.shape[-1])
    start = vary_alike(jnp.zeros(shape, keys.dtype), keys, values)
    _, outputs = jax.lax.scan(step, start, tuple(map(chunks, (queries, keys, values))))
    outputs = jnp.moveaxis(outputs, 0, -4)
    outputs = outputs.reshape(*outputs.shape[:-4], length, *outputs.shape[-2:])
    return outputs[..., :num_queries, :, :]
