"""The loop over clusters: one contract, and the implementation that CPUs and accelerators run."""

from smyrf_jax.blockwise.contract import Estimates, Inputs, Rules
from smyrf_jax.blockwise.loop import blockwise_attention

__all__ = ["Estimates", "Inputs", "Rules", "blockwise_attention"]
