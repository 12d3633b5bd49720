"""Arrays that take long to make: made once, and kept in a folder."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from training.files import path_of, write_whole
from training.processes import say


def stored(
    folder: str, name: str, settings: Mapping[str, Any], make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """The arrays that `make` makes, from the file that an earlier call has left, or anew.

    Args:
        folder: where it lies; "": nothing is kept.
        name: how the file's name begins; it goes on with a digest of the settings.
        settings: all that decides what is made.
        make: the arrays, by name.

    Raises:
        ValueError: the file is damaged; names it.
    """
    if not folder:
        return dict(make())
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    path = path_of(folder) / f"{name}_{digest}.npz"
    if path.exists():
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return dict(arrays)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is damaged ({error}): remove it, and it is made anew.") from error
    say(f"Making {path}.")
    arrays = dict(make())
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_whole(path, content.getvalue())
    return arrays
