"""What `benchmarks.tpu` compiles: methods of smyrf_jax, and JAX's flash and splash attention for TPUs."""

import functools
import math
from collections.abc import Callable
from typing import Any

# SMYRF's rounds and cluster sizes.
SHORT = {f"smyrf {r} x {c}": (r, c) for r, c in ((1, 32), (2, 64), (4, 128), (4, 512))}


def function_of(case: Any, block: int | None) -> Callable[..., Any]:
    """Attention [B, T, N, D], [B, S, N, D], [B, S, N, V] -> [B, T, N, V] of a `benchmarks.tpu.Case`."""
    import jax.numpy as jnp

    from smyrf_jax import Canopy, CausalCanopy, Dense, Local, Performer, Scatterbrain, Smyrf, attention

    scale = 1.0 if case.width == 12 else 1 / math.sqrt(case.width)
    methods = {
        "dense": Dense(),
        "smyrf 4 x 2048": Smyrf(4, 2048),
        **{name: Smyrf(*numbers) for name, numbers in SHORT.items()},
        "canopy gan": Canopy(1, 1024, 16 if case.num_queries == 128**2 else 4),
        "canopy": Canopy(),
        "scatterbrain": Scatterbrain(2, 64, 64),
        "performer": Performer(),
        "local": Local(),
    }
    if case.method.endswith(", masked"):
        method = methods[case.method.removesuffix(", masked")]

        def by_mask(query: Any, key: Any, value: Any) -> Any:
            # What the compiler does not know.
            mask = jnp.isfinite(key[:, None, None, :, 0, 0])
            return attention(query, key, value, method=method, mask=mask, query_mask=mask, scale=scale)

        return by_mask
    if case.method == "causal canopy":
        return functools.partial(attention, method=CausalCanopy(), scale=scale, is_causal=True)
    if case.method in methods:
        return functools.partial(attention, method=methods[case.method], scale=scale)

    def heads_first(array: Any) -> Any:
        return jnp.swapaxes(array, 1, 2)

    if case.method.startswith("flash"):
        from jax.experimental.pallas.ops.tpu import flash_attention as flash

        size = min(block or 512, case.num_queries)
        names = [
            "block_q",
            "block_k_major",
            "block_k",
            "block_q_major_dkv",
            "block_k_major_dkv",
            "block_k_dkv",
            "block_q_dkv",
            "block_k_major_dq",
            "block_k_dq",
            "block_q_dq",
        ]
        sizes: Any = flash.BlockSizes(block_b=1, **dict.fromkeys(names, size))
        if case.method == "flash, default blocks":
            sizes = None

        def by_flash(query: Any, key: Any, value: Any) -> Any:
            arrays = map(heads_first, (query, key, value))
            return heads_first(flash.flash_attention(*arrays, sm_scale=scale, block_sizes=sizes))

        return by_flash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    size = min(block or 512, case.num_queries)
    names = ["block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute"]
    blocks: Any = dict.fromkeys(names, size)
    sizes = splash.BlockSizes(use_fused_bwd_kernel=True, **blocks)
    kind = masks.CausalMask if case.method == "splash, causal" else masks.FullMask
    mask = masks.MultiHeadMask([kind((case.num_queries, case.num_keys))] * case.heads)
    kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes)

    def by_splash(query: Any, key: Any, value: Any) -> Any:
        import jax

        query = (query * scale).astype(query.dtype)
        return heads_first(jax.vmap(kernel)(*map(heads_first, (query, key, value))))

    return by_splash
