"""Expressions have the values that another evaluator finds, and are as random as they should be."""

import numpy as np
import pytest

from transformer.plain import PlainConfig
from transformer.tasks import listops as module
from transformer.tasks.listops import OPERATORS, VOCAB_SIZE, ListOps, ListOpsData, listops, of_digits

WORDS = ["", *map(str, range(10)), *(f"[{name}" for name in OPERATORS), "]"]


def text_of(tokens):
    return " ".join(WORDS[token] for token in tokens if token)


def value_of(text):
    """By a stack."""
    stack = []
    for word in text.split():
        if word != "]":
            stack.append(word)
            continue
        arguments = []
        while not str(stack[-1]).startswith("["):
            arguments.append(int(stack.pop()))
        stack.append(
            {
                "[MIN": min,
                "[MAX": max,
                "[MED": lambda values: int(np.median(values)),
                "[SM": lambda values: sum(values) % 10,
            }[stack.pop()](arguments)
        )
    (value,) = stack
    return int(value)


@pytest.fixture(scope="module")
def parts():
    return listops(ListOps(30, 120), {"train": 1500, "validation": 100, "test": 400}, trees=5000)


def test_values(parts):
    assert value_of("[MAX 2 9 [MIN 4 7 ] 0 ]") == 9
    assert value_of("[SM 5 6 [MED 1 4 ] ]") == 3
    for part in parts.values():
        for tokens, label in zip(part.tokens, part.labels, strict=True):
            assert value_of(text_of(tokens)) == label


def test_sizes_lengths_and_duplicates(parts):
    assert [len(part.labels) for part in parts.values()] == [1500, 100, 400]
    tokens = np.concatenate([part.tokens for part in parts.values()])
    lengths = np.concatenate([part.lengths for part in parts.values()])
    assert tokens.shape == (2000, 120)
    assert tokens.max() == VOCAB_SIZE - 1
    np.testing.assert_array_equal(np.sum(tokens > 0, axis=1), lengths)
    np.testing.assert_array_equal(tokens > 0, np.arange(120) < lengths[:, None])
    assert lengths.min() > 30
    assert lengths.max() < 120
    assert len(np.unique(tokens, axis=0)) == 2000


def test_arguments_and_depth(parts):
    texts = [text_of(tokens) for tokens in parts["train"].tokens]
    most, deepest, counts = 0, 0, np.zeros(len(OPERATORS))
    for text in texts[:500]:
        counts[OPERATORS.index(text.split()[0][1:])] += 1
        open_ = []
        for word in text.split():
            if word == "]":
                number = open_.pop()
                assert 2 <= number <= 10
                most = max(most, number)
            if word != "]" and open_:
                open_[-1] += 1
            if word.startswith("["):
                open_.append(0)
                deepest = max(deepest, len(open_))
    assert most == 10
    assert 3 < deepest < 10
    assert np.all(np.abs(counts / 500 - 0.25) < 0.07)
    shallow = listops(ListOps(5, 60, max_depth=3, max_args=3), {"train": 50}, trees=2000)["train"]
    assert all(text_of(tokens).count("[") <= 1 + 3 for tokens in shallow.tokens)


def test_the_seed_decides():
    one, two, other = (
        listops(ListOps(5, 40), {"train": 20, "test": 5}, seed, trees=500) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one["test"].tokens, two["test"].tokens)
    assert np.any(one["train"].tokens != other["train"].tokens)


def test_what_the_roots_tell(parts):
    data = ListOpsData(PlainConfig(VOCAB_SIZE, 120, 16, 1, 1, 16), parts)
    assert data.num_classes == 10
    found = {name: values["accuracy"] for name, values in data.baselines().items()}
    train, test = ([text_of(row) for row in parts[name].tokens] for name in ("train", "test"))
    roots = np.array([text.split()[0] for text in train])
    best = {root: np.bincount(parts["train"].labels[roots == root]).argmax() for root in set(roots)}
    expected = np.mean([best[text.split()[0]] for text in test] == parts["test"].labels)
    assert found["root operator alone"] == pytest.approx(expected)
    assert found["most frequent class"] < found["root operator alone"] < found["root operator and its digits"]


def test_the_digits_of_a_root():
    def tokens_of(text):
        row = np.zeros(30, np.uint8)
        words = text.split()
        row[: len(words)] = [WORDS.index(word) for word in words]
        return row

    texts = ("[MAX 2 [MIN 9 1 ] 5 ]", "[MED 1 [SM 3 3 ] 4 ]", "[MIN [MAX 1 1 ] [MAX 2 2 ] ]", "[SM 7 8 ]")
    np.testing.assert_array_equal(of_digits(np.stack([tokens_of(text) for text in texts])), [5, 2, 10, 5])


def test_lengths_that_have_no_meaning_are_refused():
    for sizes, message in (
        ({"max_length": 11}, "min_length=10 and config.data.max_length=11 should have lengths between them"),
        ({"min_length": 0}, "config.data.min_length must be positive, got 0"),
        ({"max_depth": 1}, "config.data.max_depth should be 2 at least, but is 1"),
        ({"max_args": 1}, "config.data.max_args should be 2 at least, but is 1"),
        ({"max_depth": 2, "max_args": 8}, "an expression has 10 tokens at most"),
    ):
        with pytest.raises(ValueError, match=message):
            ListOps(**{"min_length": 10, "max_length": 40} | sizes)


def test_too_few_expressions_are_told(monkeypatch):
    monkeypatch.setattr(module, "_IN_VAIN", 2)
    with pytest.raises(ValueError, match="too few expressions .*: 400 were found for 1000"):
        # An operator and two digits.
        listops(ListOps(3, 5, max_depth=2, max_args=2), {"train": 1000})


@pytest.mark.slow
def test_long_range_arenas_expressions_are_told_by_their_roots():
    """As measured on those of its own generator: 36.4 and 48.4 per cent of 3,000."""
    parts = listops(ListOps(500, 2000), {"train": 10_000, "test": 3000})
    found = ListOpsData(PlainConfig(VOCAB_SIZE, 2000, 16, 1, 1, 16), parts).baselines()
    assert found["root operator alone"]["accuracy"] == pytest.approx(0.364, abs=0.03)
    assert found["root operator and its digits"]["accuracy"] == pytest.approx(0.484, abs=0.03)
