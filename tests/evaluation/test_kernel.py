import numpy as np
import pytest

from evaluation.kernel import kernel_distance, squared_discrepancy


def drawn(num, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(num, 6)) + shift


def test_the_discrepancy_is_that_of_all_pairs():
    a, b = drawn(5, 0), drawn(4, 1, 0.5)

    def kernel(x, y):
        return (x @ y / 6 + 1) ** 3

    within_a = np.mean([kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert squared_discrepancy(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_it_is_unbiased_of_small_sets():
    """Where two samples are of one distribution it is 0 on average, and not positive."""
    values = [squared_discrepancy(drawn(8, 2 * seed), drawn(8, 2 * seed + 1)) for seed in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 300**0.5
    assert min(values) < 0 < max(values)


def test_of_pairs_none_is_compared_with_itself():
    """Of Gretton's lemma 6, the sum over i != j of k(xi, xj) + k(yi, yj) - k(xi, yj) - k(xj, yi)."""
    a, b = drawn(5, 0), drawn(5, 1, 0.5)

    def kernel(x, y):
        return (x @ y / 6 + 1) ** 3

    terms = [
        kernel(a[i], a[j]) + kernel(b[i], b[j]) - kernel(a[i], b[j]) - kernel(a[j], b[i])
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert squared_discrepancy(a, b, paired=True) == pytest.approx(np.mean(terms))
    assert squared_discrepancy(a, a, paired=True) == 0
    assert squared_discrepancy(a, a) < -0.1
    a = drawn(40, 0)
    assert kernel_distance(a, a, paired=True) == (0, 0)
    near = kernel_distance(a, a + 0.01 * drawn(40, 1), paired=True)
    assert abs(near.value) < 0.1 * abs(kernel_distance(a, a).value)
    with pytest.raises(ValueError, match="paired sets should have as many images, but got 40 and 39"):
        kernel_distance(a, a[1:], paired=True)


@pytest.mark.parametrize("num", [40, 2500])
def test_subsets(num):
    a, b = drawn(num, 0), drawn(num, 1, 0.3)
    found = kernel_distance(a, b)
    assert found.value == pytest.approx(squared_discrepancy(a, b), rel=0.15)
    assert found.spread > 0
    assert kernel_distance(a, b) == found
    assert kernel_distance(a, b, seed=1) != found


def test_too_few():
    with pytest.raises(ValueError, match="kd wants four images or more in each set, but got 3 and 9"):
        kernel_distance(drawn(3, 0), drawn(9, 1))
    with pytest.raises(ValueError, match="two images or more, but got 1"):
        squared_discrepancy(drawn(1, 0), drawn(9, 1))
