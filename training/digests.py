"""What a state is made of, and digests by which damage is found."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(state: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        yield _name(path), leaf


def filled(template: Any, saved: Any) -> Any:
    """A tree like the template with the arrays that `saved`, of other containers, has at the same paths.

    Fields of the template that hold None need not be in `saved`: they may be younger than it is.

    Raises:
        KeyError: saved lacks an array.
    """
    arrays = dict(_by_path(saved))
    return jax.tree_util.tree_map_with_path(lambda path, _: np.asarray(arrays[_name(path)]), template)


def arrays_of(state: Any) -> dict[str, str]:
    """Shape and dtype of every array, by its path."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in _by_path(state)}


def digests_of(state: Any) -> dict[str, str]:
    """A digest of every array's bytes, by its path."""
    return {
        name: hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()[:32] for name, leaf in _by_path(state)
    }


def digest_of_plain(plain: Mapping[str, Any]) -> str:
    """A digest of what JSON keeps, whatever the order of its fields."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
