"""Causal attention to the past by trees: what is near exactly, what is far by chosen leaves and by means."""

from smyrf_jax.causal.past import Past, Sizes, past_of
from smyrf_jax.causal.scan import attend_to_past

__all__ = ["Past", "Sizes", "attend_to_past", "past_of"]
