import numpy as np
import pytest

from evaluation.inception_score import inception_score


def test_classes_that_are_sure_and_even_score_their_number():
    logits = 100 * np.eye(5)[np.arange(100) % 5]
    found = inception_score(logits)
    assert found.value == pytest.approx(5)
    assert found.spread == pytest.approx(0, abs=1e-9)
    assert inception_score(np.zeros((30, 5))).value == pytest.approx(1)


def test_against_the_definition():
    logits = np.random.default_rng(0).normal(size=(40, 6)) * 3
    scores = []
    for part in np.split(logits, 10):
        p = np.exp(part) / np.exp(part).sum(1, keepdims=True)
        scores.append(np.exp(np.mean([np.sum(row * np.log(row / p.mean(0))) for row in p])))
    assert inception_score(logits) == pytest.approx((np.mean(scores), np.std(scores)))


def test_too_few():
    with pytest.raises(ValueError, match="10 images or more, but got 9"):
        inception_score(np.zeros((9, 3)))
