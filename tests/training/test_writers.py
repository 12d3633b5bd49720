"""Metrics on disk."""

import json

from training.writers import MetricWriter


def test_rows_of_an_attempt_that_was_cut_short_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n{"step": 3, "a"')
    with MetricWriter(str(tmp_path), 1) as writer:
        writer.write(2, {"a": 5.0})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "a": 1.0}, {"step": 2, "a": 5.0}]
