"""Metrics on disk."""

import json

import pytest

from training import writers
from training.curves import save_curves
from training.writers import MetricWriter, read_rows


def test_rows_of_an_attempt_that_was_cut_short_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}\n{"step": 3, "a"')
    with MetricWriter(str(tmp_path), 1) as writer:
        writer.write(2, {"a": 5.0})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1, "a": 1.0}, {"step": 2, "a": 5.0}]


@pytest.mark.parametrize(
    "broken",
    [
        b"\xff\xfe\x00",
        b"{}",
        b"[3]",
        b'{"step": "two"}',
        b'{"step": true}',
        b'{"a": 1.0}',
        b"7",
        b'{"step": 2, "a"',
        b'{"step": 2, "a": "x"}',
        b'{"step": 2, "a": null}',
        pytest.param(200_000 * b"[", id="nested"),
    ],
)
def test_rows_that_cannot_be_read_are_dropped_and_kept_in_a_copy(broken, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"step": 1, "a": 1.0}\n' + broken + b'\n{"step": 3, "a": 3.0}\n'
    path.write_bytes(whole)
    save_curves(str(path), str(tmp_path / "curves.png"), {"a": "a"})
    with MetricWriter(str(tmp_path), 3) as writer:
        writer.write(4, {"a": 4.0})
    rows, damaged = read_rows(str(path))
    assert ([row["step"] for row in rows], damaged) == ([1, 3, 4], 0)
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == whole
    assert "1 rows of" in capsys.readouterr().out


def test_where_nothing_can_be_appended_the_file_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "is_remote", lambda path: True)
    path = tmp_path / "metrics.jsonl"
    with MetricWriter(str(tmp_path), 0) as writer:
        writer.write(1, {"a": 1.0})
        writer.flush()
        assert [row["step"] for row in read_rows(str(path))[0]] == [1]
        writer.write(2, {"a": 1.0})
    assert [row["step"] for row in read_rows(str(path))[0]] == [1, 2]
