"""The attention of clusters: one contract, a loop that CPUs run, and gathers that accelerators run."""

from smyrf_jax.blockwise.contract import Estimates, Inputs, Rules
from smyrf_jax.blockwise.dispatch import Implementation, blockwise_attention, check_implementation

__all__ = ["Estimates", "Implementation", "Inputs", "Rules", "blockwise_attention", "check_implementation"]
