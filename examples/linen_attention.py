"""A Flax linen model, trained with dense attention and then swapped: python examples/linen_attention.py"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen

from smyrf_jax import Canopy
from smyrf_jax.flax_adapter import as_attention_fn


class Denoiser(linen.Module):
    attention_fn: Callable = linen.dot_product_attention

    @linen.compact
    def __call__(self, points):  # [B, T, 16] -> [B, T, 16]
        attend = linen.MultiHeadDotProductAttention(num_heads=2, attention_fn=self.attention_fn)
        hidden = linen.Dense(32)(points)
        return linen.Dense(16)(hidden + attend(hidden))


# Each point is one of 32 centres, and noise. The points around a centre tell where it is.
rng_centres, rng_which, rng_noise, rng_init = jax.random.split(jax.random.key(0), 4)
clean = jax.random.normal(rng_centres, (32, 16))[jax.random.randint(rng_which, (1, 1024), 0, 32)]
points = clean + 0.5 * jax.random.normal(rng_noise, clean.shape)
dense, swapped = Denoiser(), Denoiser(as_attention_fn(Canopy()))  # one argument; the parameters are the same
params, optimizer = dense.init(rng_init, points[:, :8]), optax.adam(1e-2)
state = optimizer.init(params)
slopes_of = jax.jit(jax.grad(lambda params: jnp.mean((dense.apply(params, points) - clean) ** 2)))
for _ in range(60):
    updates, state = optimizer.update(slopes_of(params), state)
    params = optax.apply_updates(params, updates)

exact, output = (jax.jit(model.apply)(params, points) for model in (dense, swapped))
for name, denoised in {"not denoised": points, "dense": exact, "swapped, not retrained": output}.items():
    print(f"{name}: mean squared error {jnp.mean((denoised - clean) ** 2):.3f}")
print(f"swapped output: {jnp.linalg.norm(output - exact) / jnp.linalg.norm(exact):.1%} off the dense one")
