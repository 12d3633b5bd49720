"""Metrics on disk."""

import json
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

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
    save_curves(str(path), str(tmp_path / "curves.png"), {"a": ("a",)})
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


def test_tensorboard_has_scalars_pictures_and_the_config(tmp_path):
    with MetricWriter(str(tmp_path), 0) as writer:
        writer.write_config({"seed": 0, "adam": {"g_lr": 0.5}, "sizes": [1, 2], "name": "x"})
        writer.write(3, {"loss": 1.5})
        writer.write_image(3, "samples", np.zeros((4, 6, 3), np.uint8))
    (events,) = (tmp_path / "tensorboard").iterdir()
    found = {}
    data = events.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]
        found |= {value.tag: (event.step, value) for value in event.summary.value}
    assert found["loss"][0] == 3
    assert found["loss"][1].simple_value == 1.5
    assert (found["samples"][1].image.height, found["samples"][1].image.width) == (4, 6)
    assert b"| adam.g_lr | 0.5 |" in found["config/text_summary"][1].tensor.string_val[0]
    hyperparameters = found["_hparams_/session_start_info"][1].metadata.plugin_data.content
    assert b"adam.g_lr" in hyperparameters
    # The file of metrics has its rows alone.
    assert read_rows(str(tmp_path / "metrics.jsonl")) == ([{"step": 3, "loss": 1.5}], 0)


def test_curves(tmp_path):
    with MetricWriter(str(tmp_path), 0) as writer:
        for step in (1, 2):
            writer.write(step, {"kd": 1.0 / step, "kd_sd": 0.1, "d_loss": 2.0})
    path = tmp_path / "curves.png"
    panels = {"hinge loss": ("loss",), "kernel distance": ("kd",), "precision and recall": ("precision",)}
    save_curves(str(tmp_path / "metrics.jsonl"), str(path), panels, log=("kernel distance",))
    with Image.open(path) as picture:
        assert picture.height > picture.width  # three panels
