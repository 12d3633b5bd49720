"""A layer in plain JAX, and the line that swaps its attention: python examples/plain_jax.py"""

import jax
import jax.numpy as jnp

from smyrf_jax import Canopy, attention


def layer(params, tokens, attend):  # [B, T, 64] -> [B, T, 64]
    query, key, value = (jnp.einsum("btw,wnd->btnd", tokens, params[name]) for name in "qkv")
    return tokens + jnp.einsum("btnd,ndw->btw", attend(query, key, value), params["out"])


def clustered(query, key, value):  # was: jax.nn.dot_product_attention(query, key, value)
    return attention(query, key, value, method=Canopy())


keys = dict(zip(("q", "k", "v", "out", "tokens"), jax.random.split(jax.random.key(0), 5), strict=True))
params = {name: jax.random.normal(keys[name], (64, 4, 16)) / 8 for name in "qkv"}
params["out"] = jax.random.normal(keys["out"], (4, 16, 64)) / 8
tokens = jax.random.normal(keys["tokens"], (1, 4096, 64))
exact = jax.jit(layer, static_argnums=2)(params, tokens, jax.nn.dot_product_attention)
output = jax.jit(layer, static_argnums=2)(params, tokens, clustered)
print(f"error of the layer: {jnp.linalg.norm(output - exact) / jnp.linalg.norm(exact):.1%}")

gradient = jax.jit(jax.grad(lambda params: jnp.sum(layer(params, tokens, clustered) ** 2)))(params)
print({name: of.shape for name, of in gradient.items()})
