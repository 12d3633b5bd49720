"""Contenders that take turns."""

from training.timing import medians


def test_every_step_has_its_turn_in_an_order_of_chance():
    turns = []
    steps = {name: lambda name=name: turns.append(name) for name in "abc"}
    found = medians(steps, 0.0)
    assert set(found) == {"a", "b", "c"}
    assert all(0 <= seconds < 1 for seconds in found.values())
    # A warm run and a timed one each turn; the first turn's time, which compiles, does not count.
    assert [turns.count(name) for name in "abc"] == [8, 8, 8]
    orders = {tuple(turns[start : start + 6 : 2]) for start in range(0, 24, 6)}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(orders) > 1
