"""Losses and regularisers."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree


def discriminator_hinge(
    fake: Float[Array, " B"], real: Float[Array, " B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(mean relu(1 + fake), mean relu(1 - real)); the loss is their sum.

    Source: Geometric GAN (arXiv:1705.02894).
    """
    return jnp.mean(jax.nn.relu(1 + fake)), jnp.mean(jax.nn.relu(1 - real))


def generator_hinge(fake: Float[Array, " B"]) -> Float[Array, ""]:
    """-mean fake."""
    return -jnp.mean(fake)


def orthogonal_gradient(params: PyTree, exclude: tuple[str, ...] = ()) -> PyTree:
    """The gradient of |W W^T * (1 - I)|^2 / 2 for every kernel, zeros for all else.

    The rows of W are the layer's outputs, flattened. exclude: top-level names left out (the
    generator's shared embedding).

    Source: BigGAN (arXiv:1809.11096), section 3.1.
    """

    def gradient(path, value):
        if value.ndim < 2 or path[0].key in exclude:
            return jnp.zeros_like(value)
        if path[-1].key == "embedding":  # its rows are the classes
            return _off_diagonal(value)
        return _off_diagonal(value.reshape(-1, value.shape[-1]).T).T.reshape(value.shape)

    return jax.tree_util.tree_map_with_path(gradient, params)


def _off_diagonal(rows: Float[Array, "M N"]) -> Float[Array, "M N"]:
    gram = rows @ rows.T
    return 2 * (gram * (1 - jnp.eye(len(gram), dtype=gram.dtype))) @ rows
