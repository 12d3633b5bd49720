"""Does `attention` keep its promises with any arguments? Random ones, by the thousand.

    python -m benchmarks.fuzz --seconds=600                  # what fits
    python -m benchmarks.fuzz --cases=10000 --seconds=7200   # half an hour to an hour of one core

A setting is what is compiled: a method with its fields, shapes, a dtype, a way to mask. Each is drawn by
chance, compiled (without most optimisations, as that takes most of the time), and tried with many cases:
values (normal, equal, repeated, zero, large, huge), masks, scales and rngs. Every case counts as one, however
many checks it passes:

- finite: nothing is NaN or infinite (nor are gradients, but for huge values).
- masked: rows that are masked, or have no keys, are zero, their logsumexp is -inf, and what is masked has
  gradients of zero.
- garbage: NaN, infinities and 1e30 under the mask change neither output nor gradients.
- alone: a padded sample gives what its kept tokens give alone, gradients too.
- vmap: mapping over the batch gives what the batch gives.
- dense: where one cluster holds everything, output and logsumexp are dense attention's (NumPy, float64).
- convex: where no features estimate, outputs lie between the least and the largest of the kept values. (Not
  of several trees with means where logits are 1e8 or more: what is taken off for a pair that is met again is
  rounded otherwise than what was added.)
- causal: earlier rows and their gradients do not change with later tokens and their masks.
- refusal: what cannot be done raises ValueError with a message; what can be done raises nothing.

The order of equal or almost equal hash values depends on rounding, which depends on shapes. So `alone` and
`vmap` are looked at only where that decides nothing: in float64 with values in general position, or without
hashed clusters. `dense` leaves out rows whose two largest logits are nearer together than they are exact.

Prints one fault of a kind in each setting, as a command that shows it again, and the number of cases and
faults by kind. The exit status is 1 if there are faults.
"""

from benchmarks.fuzz.checks import check
from benchmarks.fuzz.programs import quickly
from benchmarks.fuzz.refusals import refused
from benchmarks.fuzz.settings import Setting
from smyrf_jax import Canopy, Dense, Local, Performer, Scatterbrain, Smyrf
from smyrf_jax.methods import HyperAttention, Reformer, Routing

# What the printed commands name.
__all__ = [
    "Canopy",
    "Dense",
    "HyperAttention",
    "Local",
    "Performer",
    "Reformer",
    "Routing",
    "Scatterbrain",
    "Setting",
    "Smyrf",
    "refused",
    "show",
]


def show(setting: Setting, *seed: int) -> None:
    """Prints the faults of a case."""
    with quickly():
        for fault in check(setting, seed):
            print(f"{fault.kind}: {fault.what}")
