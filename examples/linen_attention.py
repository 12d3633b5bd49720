"""A Flax linen encoder whose attention is swapped after training: python examples/linen_attention.py"""

import jax
import jax.numpy as jnp
from flax import linen

from smyrf_jax import Canopy, Dense
from smyrf_jax.flax_adapter import as_attention_fn


class Encoder(linen.Module):
    attention_fn: object

    @linen.compact
    def __call__(self, tokens):  # [B, T] -> [B, T, 64]
        hidden = linen.Embed(256, 64)(tokens)
        for _ in range(2):
            inner = linen.LayerNorm()(hidden)
            attend = linen.MultiHeadDotProductAttention(num_heads=4, attention_fn=self.attention_fn)
            hidden = hidden + attend(inner, inner)
            hidden = hidden + linen.Dense(64)(linen.gelu(linen.Dense(256)(linen.LayerNorm()(hidden))))
        return hidden


tokens = jax.random.randint(jax.random.key(0), (1, 2048), 0, 256)
params = Encoder(as_attention_fn(Dense())).init(jax.random.key(1), tokens)
dense = Encoder(as_attention_fn(Dense())).apply(params, tokens)
# The parameters are the same for every attention.
for pairs in (0.0625, 0.125, 0.25, 0.5):
    method = Canopy.for_budget(2048, 2048, pairs=pairs)
    output = jax.jit(Encoder(as_attention_fn(method)).apply)(params, tokens)
    error = jnp.linalg.norm(output - dense) / jnp.linalg.norm(dense)
    print(
        f"{method.cost(2048, 2048).pairs:.1%} of the pairs: the output is {error:.1%} off dense attention's"
    )
