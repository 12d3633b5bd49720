"""What takes long to make is made once."""

import numpy as np
import pytest

from transformer.tasks.stored import stored


def test_arrays_are_made_once(tmp_path):
    made = []

    def make(number):
        made.append(number)
        return {"a": np.arange(number), "b": np.ones((2, number), np.uint8)}

    folder = str(tmp_path / "kept")
    for _ in range(2):
        for number in (3, 4):
            arrays = stored(folder, "of", {"number": number}, lambda number=number: make(number))
            np.testing.assert_array_equal(arrays["a"], np.arange(number))
            assert arrays["b"].dtype == np.uint8
            assert arrays["b"].shape == (2, number)
    assert made == [3, 4]
    stored("", "of", {}, lambda: make(5))
    stored("", "of", {}, lambda: make(5))
    assert made == [3, 4, 5, 5]
    for path in (tmp_path / "kept").iterdir():
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"\.npz is damaged .*: remove it"):
        stored(folder, "of", {"number": 3}, lambda: make(3))
