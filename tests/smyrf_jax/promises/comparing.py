"""How results are compared."""

import chex
import numpy as np


def close(ours, expected, rtol=1e-4, atol=1e-5):
    chex.assert_trees_all_close(ours, expected, rtol=rtol, atol=atol)


def met_and_finite(name, results, gradients):
    """The rows that have keys: all of them, but where Routing's centres may take none."""
    chex.assert_tree_all_finite((results[0], gradients))
    met = np.asarray(results[1]) > -np.inf
    assert np.all(np.isfinite(results[1][met]))
    assert np.all(met) or name == "routing"
    return met
