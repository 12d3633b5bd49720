"""The folder of a run: held by one run, whole, and nobody else's."""

import errno
import json
import multiprocessing
import os
import resource
import threading
import time

import jax
import pytest

from tests.training.numbers import Numbers, make_config, rows, saved
from training import loop, workdir, writers
from training.checkpoint import Checkpoints, Progress, UnsavedError
from training.files import path_of, write_whole
from training.restoring import latest_config
from training.workdir import Workdir, read_config


@pytest.fixture
def config():
    return make_config()


def train(config, folder, **calls):
    task = Numbers(folder, config, 1, **calls)
    return loop.train(task, config, str(folder), jax.devices()[:1])


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hold(folder, held, release):
    with Workdir(str(folder)):
        held.set()
        release.wait(60)


@pytest.mark.parametrize("ends", ["it ends", "it is killed"])
def test_a_second_run_is_refused_until_the_first_is_gone(ends, tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    first = context.Process(target=hold, args=(tmp_path, held, release))
    first.start()
    assert held.wait(60)
    with pytest.raises(
        ValueError, match=rf"another run is at work in .* \(process {first.pid} on .*wait for"
    ):
        Workdir(str(tmp_path)).__enter__()
    if ends == "it ends":
        release.set()
    else:
        first.kill()
    first.join(60)
    with Workdir(str(tmp_path)):
        pass


def test_a_run_within_a_run_is_refused_and_harms_nothing(config, tmp_path):
    def again(number):
        if number == 3:
            with pytest.raises(ValueError, match="another run is at work in"):
                train(config, tmp_path)

    train(config, tmp_path, at_batch=again)
    train(config, tmp_path / "whole")
    assert rows(tmp_path) == rows(tmp_path / "whole")


def test_where_files_know_no_locks_a_run_that_beats_is_alive(tmp_path, capsys):
    path = path_of(str(tmp_path / "run.lock"))
    refused = []

    def second():
        try:
            with workdir._lock_by_beats(path, 0.05, 4):
                pass
        except ValueError as error:
            refused.append(str(error))

    with workdir._lock_by_beats(path, 0.05, 4):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another run is at work in" in refused[0]
    assert not path.exists()
    # One that is dead left its last beat.
    path.write_text(json.dumps({"who": "process 1 on a host", "token": "x", "beat": 7}))
    with workdir._lock_by_beats(path, 0.01, 2):
        assert json.loads(path.read_text())["token"] != "x"
    assert "was left by a run (process 1 on a host)" in capsys.readouterr().out


def test_of_two_that_take_a_lock_at_once_one_has_it(tmp_path, monkeypatch):
    """Each wrote before it could see the other."""
    path = path_of(str(tmp_path / "run.lock"))
    real = workdir.write_whole

    def write_whole(where, data):
        real(where, data)
        real(where, json.dumps({"who": "the other", "token": "x"}).encode())

    monkeypatch.setattr(workdir, "write_whole", write_whole)
    with pytest.raises(ValueError, match=r"another run is at work in .* \(the other\)"):
        workdir._lock_by_beats(path, 0.05, 4).__enter__()
    assert json.loads(path.read_text())["token"] == "x"


def test_who_has_slept_finds_its_lock_taken_and_ends(tmp_path, monkeypatch):
    path = path_of(str(tmp_path / "run.lock"))
    ended = threading.Event()

    def give_up(where):
        ended.set()
        raise RuntimeError("the process would have ended")

    monkeypatch.setattr(workdir, "_give_up", give_up)
    with workdir._lock_by_beats(path, 0.05, 4):
        path.write_text(json.dumps({"who": "the other", "token": "x"}))
        assert ended.wait(30)
    assert json.loads(path.read_text())["token"] == "x"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "checkpoints/1000/model.pt",
            "weights",
            "1000 is no checkpoint of this program: take",
        ),
        ("checkpoints/7", "", "7 is no checkpoint of this program"),
        ("checkpoints", "", "checkpoints is a file, where a run has a folder"),
        ("tensorboard", "", "tensorboard is a file, where a run has a folder"),
        ("metrics.jsonl/file", "", "metrics.jsonl is a folder, where a run has a file"),
        ("config.json/file", "", "config.json is a folder, where a run has a file"),
        ("config.json", '{"model": "other"}', "config.json is no config of this program"),
        ("config.json", "[1, 2]", "config.json is no config of this program"),
    ],
)
def test_files_of_other_programs_are_named_and_left_alone(name, text, message, config, tmp_path):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path)
    assert content(tmp_path) == {name: text.encode(), "run.lock": b""}


def test_a_workdir_that_is_a_file(config, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match="run is a file: take another"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("path", ["s3://bucket/run", "file:///run", "memory://run"])
def test_other_kinds_of_paths_are_refused(path):
    with pytest.raises(ValueError, match="should be a path on a disk, or gs://bucket/folder"):
        path_of(path)


def test_a_tilde_is_the_home_folder():
    assert str(path_of("~/run")) == os.path.expanduser("~/run")
    assert str(path_of("gs://bucket/run")) == "gs://bucket/run"


def test_a_folder_below_a_file_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=rf"--workdir={tmp_path}/file/run cannot be written"):
        train(config, tmp_path / "file" / "run")


def test_events_that_cannot_be_written_stop_no_run(config, tmp_path, capsys, monkeypatch):
    """A disk that is full for a while."""
    full = [False]
    real = writers.EventsWriter.write_event

    def write_event(self, event):
        if full[0] and event.HasField("summary"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, event)

    def at_batch(number):
        full[0] = number in (3, 4)

    monkeypatch.setattr(writers.EventsWriter, "write_event", write_event)
    monkeypatch.setattr(writers, "_RETRY", 0.0)
    train(config, tmp_path, at_batch=at_batch)
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 7))
    out = capsys.readouterr().out
    assert out.count("NOT WRITTEN: events of") == 1
    assert "No space left on device" in out
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3


def test_a_start_that_fails_leaves_nothing(config, tmp_path, monkeypatch):
    def fails(self):
        raise RuntimeError

    monkeypatch.setattr(Numbers, "first_state", fails)
    with pytest.raises(RuntimeError):
        train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [None, b"", b'{"seed": 0, "num_st', b"\xff\xfe"])
def test_a_config_that_is_gone_or_broken_is_that_of_the_checkpoint(damage, config, tmp_path, capsys):
    """And the next start writes it anew."""
    train(config, tmp_path)
    path = tmp_path / "config.json"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert read_config(str(tmp_path)) is None
    assert latest_config(str(tmp_path)) == config.to_dict()
    config.num_steps = 8
    train(config, tmp_path)
    assert read_config(str(tmp_path)) == config.to_dict()
    if damage is not None:
        assert "config.json cannot be read. It is written anew, and kept as" in capsys.readouterr().out
        assert (tmp_path / "config.json.damaged").read_bytes() == damage


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_whole(str(path), b"first")

    def full(number):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(str(path), b"second")
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written_is_named(error, config, tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(workdir, "write_whole", refuse)
    with pytest.raises(OSError, match=rf"--workdir={tmp_path} cannot be written: make room or give rights"):
        train(config, tmp_path)


@pytest.fixture
def limit():
    """Sets how large a file may grow in this process; None: as it was."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def set_limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))

    yield set_limit
    set_limit(None)


def wait_for(path):
    while not path.exists():
        time.sleep(0.01)


# Orbax leaves threads with errors of their own behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_that_fails_is_told_and_the_run_goes_on(config, tmp_path, capsys, limit):
    """A disk that is full for a while, when step 4 is saved."""
    config.width = 200_000
    told = []

    def at_batch(number):
        if number == 4:
            wait_for(tmp_path / "checkpoints" / "2")
        if number == 6:
            while any(thread.name == "save_finalize" for thread in threading.enumerate()):
                time.sleep(0.01)
        limit(100_000 if number in (4, 5) else None)
        if number == 6:
            told.append(capsys.readouterr().out)

    train(config, tmp_path, at_batch=at_batch)
    out = told[0] + capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("NOT SAVED")]
    assert len(lines) == 2  # of the best checkpoint too
    assert "checkpoint 4 could not be written to" in lines[0]
    assert "File too large" in lines[0]
    assert "The last one is that of step 2." in lines[0]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "6", "best"]
    assert len(list((tmp_path / "checkpoints" / "best").iterdir())) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_whose_last_save_fails_says_so_and_can_be_continued(config, tmp_path, limit):
    config.width = 200_000

    def at_batch(number):
        if number == 6:
            wait_for(tmp_path / "run" / "checkpoints" / "4")
            limit(100_000)

    with pytest.raises(UnsavedError, match="checkpoint 6 could not be written.*last one is that of step 4"):
        train(config, tmp_path / "run", at_batch=at_batch)
    limit(None)
    train(config, tmp_path / "run")
    train(config, tmp_path / "whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_who_reads_checkpoints_disturbs_no_save(tmp_path):
    """What is being saved looks like what a crash has left."""
    directory = tmp_path / "checkpoints"
    checkpoints = Checkpoints(str(directory))
    state = jax.device_get(Numbers(tmp_path, make_config(), 1).initial_state())
    checkpoints.save(state, Progress(0, {"a": 1}))
    checkpoints.close()
    part = directory / "4.orbax-checkpoint-tmp"
    part.mkdir()
    saved(tmp_path)
    assert latest_config(str(tmp_path)) == {"a": 1}
    assert part.exists()
    checkpoints = Checkpoints(str(directory))  # of a run: a thread of orbax's tidies up
    deadline = time.monotonic() + 30
    while part.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    checkpoints.close()
