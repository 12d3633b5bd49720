"""Traces of some steps."""

import jax
import pytest
from absl import flags
from absl.testing import flagsaver

from tests.training.numbers import Numbers, make_config
from training import loop
from training.profiling import Profile
from training.writers import read_rows


@pytest.fixture(autouse=True)
def _parsed():
    with flagsaver.flagsaver():
        flags.FLAGS.mark_as_parsed()
        yield
        flags.FLAGS.unparse_flags()


def test_a_trace_of_some_steps(tmp_path, capsys):
    config = make_config()
    with flagsaver.flagsaver(profile="2:3"):
        loop.train(Numbers(tmp_path, config, 1), config, str(tmp_path), jax.devices()[:1])
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))
    assert list(tmp_path.glob("profile/plugins/profile/*/perfetto_trace.json.gz"))
    assert "Traced: " in capsys.readouterr().out


@pytest.mark.parametrize("given", ["3", "3:2", "0:4", "a:b", "2:3:4"])
def test_what_is_no_range_of_steps(given, tmp_path):
    with (
        flagsaver.flagsaver(profile=given),
        pytest.raises(ValueError, match="--profile should be first:last"),
    ):
        Profile.of_flags(str(tmp_path))


def test_a_run_that_ends_before_the_last_step_of_a_trace_keeps_it(tmp_path):
    config = make_config()
    with flagsaver.flagsaver(profile="5:50"):
        loop.train(Numbers(tmp_path, config, 1), config, str(tmp_path), jax.devices()[:1])
    assert list(tmp_path.glob("profile/plugins/profile/*/*.xplane.pb"))


def test_steps_that_a_run_has_not_are_told(tmp_path, capsys):
    config = make_config()
    with flagsaver.flagsaver(profile="50:60"):
        loop.train(Numbers(tmp_path, config, 1), config, str(tmp_path), jax.devices()[:1])
    assert "Not traced: the run came by none of the steps 50 to 60." in capsys.readouterr().out


def test_how_long_steps_take_is_a_metric(tmp_path):
    config = make_config()
    loop.train(Numbers(tmp_path, config, 1), config, str(tmp_path), jax.devices()[:1])
    rows, _ = read_rows(str(tmp_path / "metrics.jsonl"))
    assert len(rows) == 6
    assert all(row["seconds_waiting_for_data"] > 0 for row in rows)
    assert all(row["seconds_per_step"] > 0 for row in rows[1:])
