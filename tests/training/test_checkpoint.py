"""What a checkpoint says when it does not fit (whole runs: tests/biggan/test_train.py)."""

from training.checkpoint import config_differences


def test_config_differences():
    assert config_differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        ("a.c", 2, 4),
        ("d", 3, None),
        ("e", None, 5),
    ]
