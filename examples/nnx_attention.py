"""A Flax nnx block that trains with Canopy instead of dense attention: python examples/nnx_attention.py"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from smyrf_jax import Canopy
from smyrf_jax.flax_adapter import as_attention_fn


class Block(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(64, 32, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            4, 32, decode=False, attention_fn=as_attention_fn(Canopy(cluster_size=64)), rngs=rngs
        )
        self.head = nnx.Linear(32, 64, rngs=rngs)

    def __call__(self, tokens):  # [B, T] -> logits [B, T, 64]
        hidden = self.embed(tokens)
        return self.head(hidden + self.attention(hidden))


@nnx.jit
def train_step(model, optimizer, tokens, targets):
    def loss_of(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


model = Block(nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
tokens = jax.random.randint(jax.random.key(0), (2, 1024), 0, 64)
for step in range(21):  # to say each token's successor
    loss = train_step(model, optimizer, tokens, jnp.mod(tokens + 1, 64))
    if step % 10 == 0:
        print(f"step {step}: loss {loss:.3f}")
