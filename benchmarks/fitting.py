"""What pairs and rows of clustered attention cost beside dense attention, from what was measured."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """Pairs, those in clusters, queries and keys in rounds, and the time as a part of dense attention's."""

    all_pairs: int
    pairs: int
    rows: int
    part_of_dense: float


def cost_of_pairs_and_rows(samples: Iterable[Sample]) -> tuple[float, float]:
    """The time of a pair in a cluster, and of a query or key in a round, in pairs of dense attention.

    Least squares of relative errors, so that cheap settings count; no time is negative.
    """
    samples = list(samples)
    units = np.array([of.part_of_dense * of.all_pairs for of in samples])
    counts = np.array([(of.pairs, of.rows) for of in samples], float) / units[:, None]
    a_pair, a_row = np.linalg.lstsq(counts, np.ones(len(samples)), rcond=None)[0]
    if a_pair < 0:
        a_pair, (a_row,) = 0.0, np.linalg.lstsq(counts[:, 1:], np.ones(len(samples)), rcond=None)[0]
    return float(a_pair), float(a_row)


def in_words(costs: tuple[float, float]) -> str:
    return (
        "In units of a pair of dense attention of the same length: a pair in a cluster "
        f"{costs[0]:.2f}, a query or key in a round {costs[1]:.0f}."
    )
