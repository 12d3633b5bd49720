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
from smyrf_jax.floats import finite_min, float32_at_least, smallest_normal
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
    if not width:
        return jnp.zeros((num_rows, 0), dtype)
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
    dtype = float32_at_least(vectors.dtype)
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
    logarithms: nothing is exponentiated before its maximum is taken off.

    Args:
        projection: [P, D], of `orthogonal_projection`; redraw it as often as wished. There are 2 P features.

    Source: Scatterbrain (arXiv:2110.15343), section 4; Performer (arXiv:2009.14794).
    """

    projection: Any

    def check(self, width: int, *, is_causal: bool, window: int | None) -> None:
        """Raises ValueError for a projection of another width."""
        if self.projection.ndim != 2 or self.projection.shape[-1] != width:
            raise ValueError(f"projection should be [P, {width}], but got shape {self.projection.shape}.")

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
        every_token: bool = False,
    ) -> Estimates:
        """See `FarField`. The clustering does not matter."""
        dtype = float32_at_least(query.dtype)
        # Half of the scale on each side. A scale of zero, of which the root has no derivative, is a tiny one.
        root = jnp.sqrt(jnp.maximum(jnp.asarray(scale, dtype), smallest_normal(dtype)))
        queries, offset = positive_features(root * query.astype(dtype), self.projection)
        keys, key_scale = positive_features(root * key.astype(dtype), self.projection)
        low = finite_min(keys.dtype)
        if mask is not None:
            key_scale = jnp.where(jnp.moveaxis(mask[..., 0, :], -1, -2), key_scale, low)
        ones = jnp.ones((*value.shape[:-1], 1), keys.dtype)
        values = jnp.concatenate([value.astype(keys.dtype), ones], axis=-1)
        key_offset = None
        if is_causal:
            summed, top = _causal_sums(queries, keys, key_scale, values)
            offset, own_offset, key_offset = offset + jnp.where(top > low, top, 0.0), offset, key_scale
        else:
            # One scale for all keys of a row: that of the largest.
            top = jax.lax.stop_gradient(jnp.max(key_scale, axis=-2, keepdims=True, initial=low))
            keys = keys * jnp.exp(jnp.where(key_scale > low, key_scale - top, low))[..., None]
            offset = own_offset = offset + jnp.where(top > low, top, 0.0)
            both = jnp.einsum("...snf,...snv->...nfv", keys, values)
            summed = jnp.einsum("...tnf,...nfv->...tnv", queries, both)
        total = summed[..., -1]
        found = total > 4 * smallest_normal(total.dtype)
        log_total = jnp.log(jnp.where(found, total, 1.0))
        logsumexp = jnp.where(found, offset + log_total, low)
        # The gradient of a quotient has its square, which a small total does not have in float32.
        output = jnp.where(found[..., None], summed[..., :-1] * jnp.exp(-log_total)[..., None], 0.0)
        return Estimates(output, logsumexp, queries, keys, own_offset, key_offset, linear=True)


def _causal_sums(queries: Array, keys: Array, key_scale: Array, values: Array) -> tuple[Array, Array]:
    """sum_{j <= i} (query_i . key_j) e^(key_scale_j - top_i) value_j, [*B, T, N, V], and top, [*B, T, N].

    The top of a query is the largest key_scale that it sees: one of all keys would depend on later ones.
    """
    num_queries, num_keys = queries.shape[-3], keys.shape[-3]
    length = -(-max(num_queries, num_keys) // CHUNK) * CHUNK
    low = finite_min(keys.dtype)

    def chunks(array: Array, empty: float = 0.0) -> Array:
        """[chunks, *B, CHUNK, N, ...], filled up at the end."""
        widths = [(0, 0)] * array.ndim
        widths[-3] = (0, length - array.shape[-3])
        array = jnp.pad(array, widths, constant_values=empty)
        array = array.reshape(*array.shape[:-3], length // CHUNK, CHUNK, *array.shape[-2:])
        return jnp.moveaxis(array, -4, 0)

    def part(scale: Array, top: Array) -> Array:
        """e^(scale - top), 0 where nothing is kept. Above the top are later keys, which do not count."""
        below = jnp.where(scale > top, 0.0, scale - top)
        return jnp.exp(jnp.where(scale > low, below, low))

    @jax.checkpoint
    def step(
        before: tuple[Array, Array], arrays: tuple[Array, Array, Array, Array]
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        (sums, top_before), (query, key, scale, value) = before, arrays
        # [*B, CHUNK, N, 1]
        top = jax.lax.cummax(jax.lax.stop_gradient(scale), axis=scale.ndim - 3)
        top = jnp.maximum(top, top_before)
        inside = jnp.tril(jnp.ones((CHUNK, CHUNK), bool))[:, None, :]
        inside = jnp.broadcast_to(inside, (*query.shape[:-2], query.shape[-2], CHUNK))
        of_keys = jnp.moveaxis(scale[..., 0], -2, -1)[..., None, :, :]  # [*B, 1, N, CHUNK]
        pairs = part(jnp.broadcast_to(of_keys, inside.shape), top)
        pairs = jnp.where(inside, pairs * jnp.einsum("...tnf,...snf->...tns", query, key), 0.0)
        output = jnp.einsum("...tns,...snv->...tnv", pairs, value)
        output += part(top_before, top) * jnp.einsum("...tnf,...nfv->...tnv", query, sums)
        last = top[..., -1:, :, :]
        sums = part(top_before, last)[..., 0, :, :, None] * sums
        sums += jnp.einsum("...snf,...snv->...nfv", key * part(scale, last), value)
        return (sums, last), (output, top[..., 0])

    shape = (*keys.shape[:-3], *keys.shape[-2:], values.shape[-1])
    tops = jnp.full((*keys.shape[:-3], 1, keys.shape[-2], 1), low, keys.dtype)
    start = vary_alike((jnp.zeros(shape, keys.dtype), tops), keys, values)
    arrays = chunks(queries), chunks(keys), chunks(key_scale[..., None], low), chunks(values)
    _, (outputs, tops) = jax.lax.scan(step, start, arrays)

    def tokens(chunked: Array, axis: int) -> Array:
        """[*B, T, ...] of [chunks, *B, CHUNK, ...], whose CHUNK is the axis."""
        chunked = jnp.moveaxis(chunked, 0, axis - 1)
        chunked = chunked.reshape(*chunked.shape[: axis - 1], length, *chunked.shape[axis + 1 :])
        return jax.lax.slice_in_dim(chunked, 0, num_queries, axis=axis - 1)

    return tokens(outputs, outputs.ndim - 3), tokens(tops, tops.ndim - 2)
