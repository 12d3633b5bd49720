"""Causal attention token by token, with a cache: python examples/decoding.py"""

import jax
import jax.numpy as jnp

from smyrf_jax import CausalCanopy, attention
from smyrf_jax.decoding import prefill, step

method = CausalCanopy()
# [B, T, N, D]; two query heads share each key head.
query = jax.random.normal(jax.random.key(0), (1, 1024, 4, 32))
key, value = jax.random.normal(jax.random.key(1), (2, 1, 1024, 2, 32))

prompt = 1000
output, cache = prefill(query[:, :prompt], key[:, :prompt], value[:, :prompt], method=method, length=1024)
outputs = [output]
next_token = jax.jit(lambda *of: step(*of, method=method))
for place in range(prompt, 1024):
    token = slice(place, place + 1)
    output, cache = next_token(query[:, token], key[:, token], value[:, token], cache)
    outputs.append(output)

at_once = attention(query, key, value, method=method, is_causal=True)
difference = jnp.max(jnp.abs(jnp.concatenate(outputs, axis=1) - at_once))
print(f"{1024 - prompt} tokens one by one: at most {difference:.1e} off the output of all at once")
