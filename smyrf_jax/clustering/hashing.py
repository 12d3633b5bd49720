"""Random-projection hash values."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key


def gaussian_directions(
    rng: Key[Array, ""], num_hashes: int, width: int, dtype: jnp.dtype = jnp.float32
) -> Float[Array, "R D"]:
    """Draws one standard normal direction a hash round.

    Args:
        rng: typed key.
        num_hashes: R.
        width: D, the width of the vectors to be hashed.
        dtype: of the result.

    Returns:
        [R, D].
    """
    return jax.random.normal(rng, (num_hashes, width), dtype)


def e2lsh(vectors: Float[Array, "*B T N D"], directions: Float[Array, "R D"]) -> Float[Array, "*B N R T"]:
    """Hash values a_r . x, whose order along T says which tokens are near to each other in round r.

    E2LSH floors (a . x + b) / w; the shift b and the width w change no order, so clusters cut from
    sorted values need neither.

    Args:
        vectors: [*B, T, N, D].
        directions: [R, D], shared by all rows of the batch and all heads.

    Returns:
        [*B, N, R, T].

    Source: SMYRF (arXiv:2010.05315), section 3; E2LSH, Datar et al., SCG 2004.
    """
    # Highest: bfloat16 products would tie neighbours, and this is a tiny part of the work.
    return jnp.einsum("...tnd,rd->...nrt", vectors, directions, precision=jax.lax.Precision.HIGHEST)
