"""A Flax nnx block that trains with Canopy instead of dense attention: python examples/nnx_attention.py"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from smyrf_jax import Canopy
from smyrf_jax.flax_adapter import as_attention_fn


class Block(nnx.Module):
    def __init__(self, attention_fn, rngs):
        self.embed = nnx.Embed(64, 32, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(4, 32, decode=False, attention_fn=attention_fn, rngs=rngs)
        self.head = nnx.Linear(32, 64, rngs=rngs)

    def __call__(self, tokens):  # [B, T] -> logits [B, T, 64]
        hidden = self.embed(tokens)
        return self.head(hidden + self.attend(hidden))


@nnx.jit
def train_step(model, optimizer, tokens, targets):
    loss, slopes = nnx.value_and_grad(
        lambda model: optax.softmax_cross_entropy_with_integer_labels(model(tokens), targets).mean()
    )(model)
    optimizer.update(model, slopes)
    return loss


model = Block(as_attention_fn(Canopy(cluster_size=64)), nnx.Rngs(0))  # was: nnx.dot_product_attention
optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)
tokens = jax.random.randint(jax.random.key(0), (2, 1024), 0, 64)
losses = [train_step(model, optimizer, tokens, jnp.mod(tokens + 1, 64)) for _ in range(21)]  # the next number
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.3f} after {len(losses) - 1} steps")
output = nnx.jit(model)(tokens)
model.attend.attention_fn = nnx.dot_product_attention
error = jnp.linalg.norm(output - model(tokens)) / jnp.linalg.norm(model(tokens))
print(f"its logits are {error:.1%} off those with dense attention")
