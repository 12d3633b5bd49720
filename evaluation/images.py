"""Sets of images, and the way from them to features."""

import concurrent.futures
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import UInt8

from evaluation.networks import Features, Network
from evaluation.resizers import RESIZERS
from training.parallel import AXIS, replicate

_THREADS = 8
Progress = Callable[..., Any]


@runtime_checkable
class Images(Protocol):
    """Images by index, [H, W, 3] uint8 of any size. Several threads ask at once."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]: ...


class Observed:
    """Images that are passed on, and the sizes of those that were asked for."""

    def __init__(self, images: Images):
        self._images = images
        self._sizes: set[tuple[int, ...]] = set()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        image = self._images[index]
        self._sizes.add(image.shape[:2])
        return image

    @property
    def resolution(self) -> str:
        """Height x width, "128x128"; "mixed" if images have several."""
        return "x".join(map(str, next(iter(self._sizes)))) if len(self._sizes) == 1 else "mixed"


def hash_of(images: Images, progress: Progress) -> str:
    """A hash of all pixels."""

    def of_image(index: int) -> bytes:
        image = images[index]
        digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(image).data)
        return digest.digest()

    whole = hashlib.blake2b(digest_size=16)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for digest in progress(_in_turn(pool, of_image, len(images)), total=len(images)):
            whole.update(digest)
    return whole.hexdigest()


def _in_turn(pool: concurrent.futures.Executor, task: Callable[[int], Any], num: int) -> Iterator[Any]:
    """Results of 0 .. num - 1, in this order; a few are ahead, and no more than that in memory."""
    waiting: list[concurrent.futures.Future] = []
    for index in range(num):
        waiting.append(pool.submit(task, index))
        if len(waiting) > 4 * _THREADS:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def features_of(
    network: Network,
    images: Images,
    *,
    batch_size: int = 32,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[Features]:
    """Features of all images in their order, some at a time, as float32 arrays on the host.

    batch_size: images at once, on all devices together, rounded up to their
    number. devices: of this process; None: the first.
    """
    devices = list(devices or jax.local_devices()[:1])
    each = -(-batch_size // len(devices))
    apply = jax.pmap(network.apply, axis_name=AXIS, devices=devices)
    variables = replicate(network.variables, devices)
    resize, side = RESIZERS[network.resizer], network.resolution

    def prepared(index: int) -> np.ndarray:
        return resize(images[index], side)

    def run(group: Sequence[np.ndarray]) -> tuple[Features, int]:
        # Always as many images, so that one program serves.
        batch = np.zeros((len(devices) * each, side, side, 3), np.float32)
        batch[: len(group)] = group
        return apply(variables, batch.reshape(len(devices), each, side, side, 3)), len(group)

    def on_host(result: Features, num: int) -> Features:
        return Features(*(x if x is None else np.asarray(x).reshape(-1, x.shape[-1])[:num] for x in result))

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        pending = None
        for group in _groups(_in_turn(pool, prepared, len(images)), len(devices) * each):
            # The devices work on while the batch before is taken to the host.
            started = run(group)
            if pending is not None:
                yield on_host(*pending)
            pending = started
        if pending is not None:
            yield on_host(*pending)


def _groups(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while group := list(itertools.islice(items, size)):
        yield group
