"""What differs between TPUs: the vector memory that a gather's source should fit into."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

# Bytes of a gather's source, by the chip: half of a small vector memory (16 MB), less of a large one (128 MB;
# v5p 64 MB), which holds other arrays as well.
SOURCE_BYTES = {"v2": 2**23, "v3": 2**23, "v4": 2**23, "v5e": 9 * 2**22, "v5p": 5 * 2**22, "v6e": 9 * 2**22}
# Numbers of a register's row: rows of fewer take as much room.
LANES = 128
_KINDS = {
    "v5 lite": "v5e",
    "v5litepod": "v5e",
    "v5e": "v5e",
    "v5p": "v5p",
    "v5": "v5p",
    "v6 lite": "v6e",
    "v6e": "v6e",
}

_chip: contextvars.ContextVar[str | None] = contextvars.ContextVar("chip", default=None)


@contextlib.contextmanager
def compiling_for(chip: str) -> Iterator[None]:
    """Programs traced inside are for this TPU, one of `SOURCE_BYTES`, though another device is at hand.

    For compiling ahead of time. Without it, programs are for the TPU at hand; where there is none, for v3,
    which every TPU runs, if longer sequences than 16,384 tokens not as fast as it could.

    Raises:
        ValueError: the chip is unknown.
    """
    if chip not in SOURCE_BYTES:
        raise ValueError(f"chip should be one of {sorted(SOURCE_BYTES)}, but got {chip!r}.")
    token = _chip.set(chip)
    try:
        yield
    finally:
        _chip.reset(token)


def source_bytes() -> int:
    """Bytes of a gather's source.

    A row costs 2 cycles then, and 22 where it comes from a larger array.
    """
    return SOURCE_BYTES[of_program()]


def row_bytes(words: int, itemsize: int) -> int:
    """Bytes that a row of so many words takes in vector memory."""
    return -(-words // LANES) * LANES * itemsize


def of_program() -> str:
    """The chip that a program which is being traced is for."""
    return _chip.get() or _at_hand()


def _at_hand() -> str:
    # In pmap and shard_map the mesh says what its devices are, also ahead of time.
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    kind = getattr(device, "device_kind", None)
    if kind is None and jax.default_backend() == "tpu":
        kind = jax.devices()[0].device_kind
    return _KINDS.get(str(kind).lower().removeprefix("tpu").strip(), "v3")
