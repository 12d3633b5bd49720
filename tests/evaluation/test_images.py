import threading
import time

import jax
import numpy as np
import pytest

from evaluation.images import Observed, features_of, hash_of
from tests.evaluation.toy import features, images, network, silent


@pytest.mark.parametrize("num_devices", [1, 3])
def test_features_in_order(num_devices):
    some = images(11)
    batches = list(
        features_of(
            network(),
            some,
            batch_size=4,
            devices=jax.local_devices()[:num_devices],
        )
    )
    found = np.concatenate([batch.features for batch in batches])
    np.testing.assert_allclose(found, features(some), rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([batch.logits for batch in batches]), found[:, :5])
    assert len(batches) > 1


def test_images_of_several_sizes_and_no_more_in_memory_than_a_few():
    class Counted:
        """The furthest image that was asked for."""

        furthest, lock = 0, threading.Lock()

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            with self.lock:
                self.furthest = max(self.furthest, index)
            return np.full((5 + index % 7, 9, 3), index % 200, np.uint8)

    counted = Counted()
    stream = features_of(network(), counted, batch_size=8)
    first = next(stream)
    time.sleep(0.2)
    np.testing.assert_allclose(first.features[:, 0], 0.1 * np.arange(8), rtol=1e-5, atol=1e-5)
    assert counted.furthest < 100
    stream.close()


def test_a_hash_is_of_content():
    some = images(5)
    one = hash_of(some, silent)
    assert hash_of([image.copy() for image in some], silent) == one
    # Fewer, in another order, one pixel, the same bytes in another shape.
    changed = some[4].copy()
    changed[3, 3, 1] += 1
    others = (some[:4], some[::-1], [*some[:4], changed], [image.reshape(4, 16, 3) for image in some])
    assert len({one, *(hash_of(other, silent) for other in others)}) == 5


def test_sizes_that_were_seen():
    observed = Observed([*images(2), *images(1, side=9)])
    for index, resolution in enumerate(("8x8", "8x8", "mixed")):
        observed[index]
        assert observed.resolution == resolution


def test_an_image_that_cannot_be_read_ends_it():
    class Broken(list):
        def __getitem__(self, index):
            if index == 3:
                raise ValueError("image 3 is broken")
            return super().__getitem__(index)

    with pytest.raises(ValueError, match="image 3 is broken"):
        list(features_of(network(), Broken(images(9)), batch_size=4))
