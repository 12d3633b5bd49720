"""Fields of methods on command lines."""

import pytest

from transformer.settings import fields_by_method, fields_of


def test_fields_are_numbers_or_words():
    assert fields_of([]) == {}
    assert fields_of(["num_hashes=2", "deduplicate=true"]) == {"num_hashes": 2, "deduplicate": True}
    assert fields_of(["deduplicate=True", "shared=FALSE"]) == {"deduplicate": True, "shared": False}
    for setting in ("num_hashes", "num_hashes=two"):
        with pytest.raises(ValueError, match=f"name=true or name=false, but got '{setting}'"):
            fields_of([setting])


def test_fields_of_several_methods():
    settings = ["local.window=6", "smyrf.deduplicate=true", "local.other=1"]
    assert fields_by_method(settings, ["dense", "local", "smyrf"]) == {
        "dense": {},
        "local": {"window": 6, "other": 1},
        "smyrf": {"deduplicate": True},
    }
    for setting in ("window=6", "canopy.window=6"):
        with pytest.raises(ValueError, match=f"one of --methods, dense, local, but got '{setting}'"):
            fields_by_method([setting], ["dense", "local"])
    with pytest.raises(ValueError, match="method.name=number, .* but got 'local.window=six'"):
        fields_by_method(["local.window=six"], ["local"])
