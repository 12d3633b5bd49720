"""Which state is restored, and what is said when it does not fit (whole runs: tests/biggan/test_train.py)."""

from typing import Any

import flax.struct
import jax
import numpy as np
import pytest

from training.checkpoint import (
    Checkpoints,
    DamagedCheckpointError,
    Progress,
    UnsavedError,
    config_differences,
)
from training.restoring import restore


class State(flax.struct.PyTreeNode):
    step: Any
    values: Any


def state_of(step, width=3):
    return State(np.int32(step), np.full(width, step, np.float32))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of a run with checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(str(folder / "checkpoints"))
    for step in (2, 4):
        checkpoints.save(state_of(step), Progress(10 * step, {"width": 3, "rate": 0.1}))
    checkpoints.close()
    return folder


def template_of(width=3):
    """From a config to a state of that width."""
    return lambda config: jax.eval_shape(lambda: state_of(0, width))


def test_the_newest_checkpoint_is_restored_or_the_one_asked_for(workdir):
    for step, expected in (("newest", 4), (2, 2)):
        state = restore(str(workdir), template_of(), {"width": 3}, step=step)
        assert int(state.step) == expected
        assert isinstance(state.values, np.ndarray)
        np.testing.assert_array_equal(state.values, expected)


def test_a_folder_without_checkpoints_is_named_and_left_as_it_is(workdir, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint in .*missing/checkpoints"):
        restore(str(missing), template_of(), {})
    assert not missing.exists()
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no checkpoint in"):
        restore(str(tmp_path), template_of(), {})
    with pytest.raises(FileNotFoundError, match="there is no checkpoint of step 3 in"):
        restore(str(workdir), template_of(), {}, step=3)


def test_a_state_that_does_not_fit_names_the_fields_that_decide_its_arrays(workdir):
    config = {"width": 5, "rate": 0.2}
    message = r"checkpoint 4 in .* does not fit this run: config.width is 3 in .* and 5 in this run\. "
    with pytest.raises(ValueError, match=message):
        restore(str(workdir), template_of(5), config, state_fields=("width",))
    with pytest.raises(ValueError, match=r"config.rate is 0.1 .* and 0.2 in this run; config.width"):
        restore(str(workdir), template_of(5), config)


def test_a_field_that_the_checkpoint_does_not_know_may_hold_none(workdir):
    class Younger(State):
        count: Any = None

    plain = vars(template_of()({}))
    restored = restore(str(workdir), lambda saved: Younger(**plain), {"width": 3})
    assert isinstance(restored, Younger)
    assert restored.count is None
    np.testing.assert_array_equal(restored.values, 4)
    with pytest.raises(ValueError, match=r"1 arrays differ; count is None there and int32\[\] here"):
        restore(str(workdir), lambda saved: Younger(**plain, count=np.int32(0)), {"width": 3})


def test_config_differences():
    assert config_differences({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}) == [
        ("a.c", 2, 4),
        ("d", 3, None),
        ("e", None, 5),
    ]


def saved_steps(folder, steps=(2, 4, 6)):
    checkpoints = Checkpoints(str(folder / "checkpoints"))
    for step in steps:
        checkpoints.save(state_of(step, 500), Progress(10 * step, {"width": 500}))
    checkpoints.close()
    return folder / "checkpoints"


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.stat().st_size)


# Orbax leaves threads with errors of their own behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_flipped_bit_is_loaded(tmp_path):
    """A bit of any file: the state is that of step 4, or what was saved."""
    directory = saved_steps(tmp_path, (4, 6))
    damaged = 0
    for path in files_of(directory / "6"):
        whole = path.read_bytes()
        for place in np.random.default_rng(0).integers(0, len(whole), 6):
            broken = bytearray(whole)
            broken[place] ^= 1 << (place % 8)
            path.write_bytes(broken)
            state = restore(str(tmp_path), template_of(500), {"width": 500})
            damaged += int(state.step) == 4
            np.testing.assert_array_equal(state.values, np.full(500, state.step, np.float32))
        path.write_bytes(whole)
    assert damaged > 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", ["empty", "half", "gone", "text"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(damage, tmp_path):
    directory = saved_steps(tmp_path, (4, 6))
    for path in files_of(directory / "6"):
        whole = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"?"}[damage])
        checkpoints = Checkpoints(str(directory))
        restored = checkpoints.newest(template_of(500), {"width": 500})
        checkpoints.close()
        np.testing.assert_array_equal(restored.state.values, np.full(500, restored.state.step, np.float32))
        assert all(f"checkpoint 6 in {directory}" in str(error) for error in restored.damaged)
        assert bool(restored.damaged) == (int(restored.state.step) == 4)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_checkpoint_that_is_asked_for_or_the_only_one_is_an_error(tmp_path):
    directory = saved_steps(tmp_path, (4,))
    for path in files_of(directory / "4"):
        path.write_bytes(b"")
    with pytest.raises(DamagedCheckpointError, match=r"checkpoint 4 in .* cannot be read"):
        restore(str(tmp_path), template_of(500), {}, step=4)
    with pytest.raises(DamagedCheckpointError, match="No other is left: take another --workdir, or remove"):
        restore(str(tmp_path), template_of(500), {})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_bit_beside_the_state_is_flipped_unseen(tmp_path):
    """Where the data begins and the config lie there, and the digests themselves."""
    directory = saved_steps(tmp_path, (4, 6))
    path = directory / "6" / "progress" / "metadata"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        assert int(restore(str(tmp_path), template_of(500), {"width": 500}).step) == 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_checkpoint_of_another_step_than_its_name_says(tmp_path):
    directory = saved_steps(tmp_path, (4, 6))
    (directory / "6").rename(directory / "60")
    checkpoints = Checkpoints(str(directory))
    restored = checkpoints.newest(template_of(500), {"width": 500})
    assert int(restored.state.step) == 4
    assert "checkpoint 60 in" in str(restored.damaged[0])
    assert "its state is of step 6" in str(restored.damaged[0])
    # It is in the way of others until it is set aside.
    checkpoints.save(state_of(8, 500), Progress(80, {}))
    with pytest.raises(UnsavedError, match="checkpoint 8 could not be written.*one of a later step is there"):
        checkpoints.wait()
    checkpoints.set_aside(4)
    checkpoints.save(state_of(8, 500), Progress(80, {}))
    checkpoints.close()
    assert int(restore(str(tmp_path), template_of(500), {}).step) == 8


def test_settings_that_keep_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="max_to_keep must be positive"):
        Checkpoints(str(tmp_path), max_to_keep=0)
