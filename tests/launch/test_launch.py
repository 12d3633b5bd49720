"""The launch script against a Cloud TPU that is played: a worker is a folder, where its commands are run."""

import os
import pathlib
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.process

ROOT = pathlib.Path(__file__).parent.parent.parent
# Everything that a shell may take for something else.
FLAGS = ['--config.data.path=/a b/it\'s "c" $HOME `id` \\ $(id) *;&|<#', "--config.seed=3"]
WORKDIR = "gs://bucket/run"

# Plays gcloud: writes down its arguments; "slice" and "node" hold states, one for each question.
GCLOUD = r"""
printf '%s\0' "$@" "" >>"$PLAY/calls"
next() { # the next state of a file, whose last one stays
  local state
  state=$(head -n 1 "$PLAY/$1")
  [ "$(wc -l <"$PLAY/$1")" -eq 1 ] || sed -i 1d "$PLAY/$1"
  if [ "$state" = NONE ]; then echo "ERROR: NOT_FOUND: no such thing" >&2; exit 1; fi
  echo "$state"
}
case " $* " in
  *" queued-resources describe "*) next slice ;;
  *" queued-resources create "*) [ ! -e "$PLAY/refused" ] || exit 1 ;;
  *" queued-resources delete "*)
    for folder in "$PLAY"/worker*; do
      if [ -e "$folder/smyrf/train.pid" ]; then kill "$(cat "$folder/smyrf/train.pid")" 2>/dev/null; fi
      rm -rf "$folder"/smyrf*
    done ;;
  *" tpu-vm describe "*) next node ;;
  *" tpu-vm scp "*)
    for argument; do case $argument in */smyrf.tar.gz) archive=$argument ;; esac; done
    for folder in "$PLAY"/worker*; do cp "$archive" "$folder"; done ;;
  *" tpu-vm ssh "*)
    for argument; do case $argument in --command=*) command=${argument#*=} ;; esac; done
    status=0
    for folder in "$PLAY"/worker*; do
      (cd "$folder" && HOME=$folder WORKER=${folder##*/} bash -c "$command") || status=$?
    done
    exit "$status" ;;
esac
exit 0
"""
# Plays Python on a worker: training does what the next line of "runs" says of this worker.
PYTHON = r"""
[ "$2" != pip ] || exit 0
[ "$2" != venv ] || { mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit; }
printf '%s\0' "$@" >"$PLAY/arguments.$WORKER"
number=$(($(cat "$PLAY/count.$WORKER" 2>/dev/null || echo 0) + 1))
echo "$number" >"$PLAY/count.$WORKER"
echo "run $number"
case $(sed -n "${number}p" "$PLAY/runs") in
  hangs) exec sleep 30 ;;
  stops) [ "$WORKER" != worker0 ] || echo "Asked to stop after step 3. The same command continues." ;;
  fails) echo "no such folder"; exit 3 ;;
esac
"""
GIT = r"""
for argument; do case $argument in --output=*) archive=${argument#*=} ;; esac; done
[ -z "${archive:-}" ] || tar -czf "$archive" -C "$2" launch/worker.sh
"""


def split(text):
    """Commands, each of whose parts ends with a NUL, and each of which ends with another."""
    return [command.split("\0") for command in text.split("\0\0") if command]


class Play:
    """A folder of stubs, and what they wrote down."""

    def __init__(self, folder, workers, slice_states, node_states, runs):
        self.folder, self.workers = folder, [f"worker{index}" for index in range(workers)]
        for worker in self.workers:
            (folder / worker).mkdir()
        for name, lines in (("slice", slice_states), ("node", node_states), ("runs", runs)):
            (folder / name).write_text("".join(f"{line}\n" for line in lines))
        (folder / "calls").touch()
        (folder / "bin").mkdir()
        stubs = {"gcloud": GCLOUD, "python3.11": PYTHON, "git": GIT, "hostname": 'echo "$WORKER"'}
        for name, text in stubs.items():
            (folder / "bin" / name).write_text(f"#!/usr/bin/env bash\n{text}")
            (folder / "bin" / name).chmod(0o755)

    def __call__(self, *arguments, status=0, **variables):
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "PLAY": str(self.folder),
            "POLL": "0.1",
        }
        result = subprocess.run(
            ["launch/tpu.sh", *arguments],
            cwd=ROOT,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result

    def calls(self, verb):
        return [call for call in split((self.folder / "calls").read_text()) if verb in call]

    def trained_with(self, worker):
        return (self.folder / f"arguments.{worker}").read_text().split("\0")[:-1]


def run_flags(workers_see=WORKDIR):
    flags = ["-m", "biggan.train", "--config=configs/quickstart.py", *FLAGS]
    return [*flags, f"--workdir={workers_see}"] if workers_see else flags


def dry(*arguments, status=0, **variables):
    environment = {"PATH": os.environ["PATH"], "DRY_RUN": "1"} | variables
    command = ["launch/tpu.sh", *arguments]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    return result


def commands(result):
    """What a dry run printed, as a shell reads it."""
    reader = 'set -f; while read -r line; do eval "set -- $line"; printf "%s\\0" "$@"; printf "\\0"; done'
    read = subprocess.run(
        ["bash", "-c", reader], input=result.stdout, capture_output=True, text=True, check=True
    )
    return split(read.stdout)


def test_a_dry_run_of_one_host():
    found = commands(dry("run", "smyrf", "europe-west4-a", "configs/quickstart.py", PROJECT="mine"))
    assert all(command[0] in ("gcloud", "git") for command in found)
    (create,) = [command for command in found if "create" in command]
    assert create[:3] == ["gcloud", "--quiet", "--project=mine"]
    assert {"smyrf", "--node-id=smyrf", "--zone=europe-west4-a", "--accelerator-type=v3-8"} <= set(create)
    assert "--runtime-version=tpu-ubuntu2204-base" in create
    assert "--spot" not in create
    verbs = [
        next(verb for verb in ("create", "archive", "scp", "ssh", "describe") if verb in c) for c in found
    ]
    # Nothing there; there, and nothing on it; copied, installed, started; done.
    looks = ["describe", "describe", "ssh"]
    assert verbs == ["describe", "create", *looks, "archive", "scp", "ssh", "ssh", *looks]
    assert all("--worker=all" in command for command in found if "ssh" in command or "scp" in command)


@pytest.mark.parametrize(
    ("accelerator", "image", "hosts"),
    [
        ("v2-8", "tpu-ubuntu2204-base", 1),
        ("v4-32", "tpu-ubuntu2204-base", 4),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", 1),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", 4),
        ("v5p-128", "v2-alpha-tpuv5", 16),
        ("v6e-64", "v2-alpha-tpuv6e", 16),
    ],
)
def test_images_and_hosts_by_the_accelerator(accelerator, image, hosts):
    result = dry("run", "a", "b", "configs/quickstart.py", ACCELERATOR=accelerator, WORKDIR=WORKDIR)
    (create,) = [command for command in commands(result) if "create" in command]
    assert f"--runtime-version={image}" in create
    assert f"{hosts} host(s)" in result.stderr


def test_a_dry_run_of_a_spot_slice_plays_a_preemption():
    result = dry("run", "a", "b", "configs/quickstart.py", SPOT="1", WORKDIR=WORKDIR)
    changes = [command for command in commands(result) if "create" in command or "delete" in command]
    assert [command[5] for command in changes] == ["create", "delete", "create"]
    assert changes[0] == changes[2]
    assert "--spot" in changes[0]
    assert "--force" in changes[1]


@pytest.mark.parametrize(
    ("variables", "arguments", "named"),
    [
        ({"ACCELERATOR": "v5litepod-16"}, [], "WORKDIR=gs://bucket/folder"),
        ({"SPOT": "1", "WORKDIR": "/mnt/run"}, [], "WORKDIR=gs://bucket/folder"),
        ({"ACCELERATOR": "v5e-16"}, [], "v5litepod-16"),
        ({}, ["--workdir=gs://bucket/run"], "WORKDIR="),
    ],
)
def test_what_cannot_work_is_refused(variables, arguments, named):
    result = dry("run", "a", "b", "configs/quickstart.py", *arguments, status=1, **variables)
    assert named in result.stderr
    assert not result.stdout


def test_what_is_not_there_is_named():
    assert "configs/none.py" in dry("run", "a", "b", "configs/none.py", status=1).stderr
    assert "run, logs or down" in dry("up", "a", "b", status=1).stderr
    assert "launch/tpu.sh run NAME ZONE CONFIG" in dry("run", status=2).stdout


def test_a_preempted_slice_is_asked_for_again_until_the_run_is_done(tmp_path):
    states = ["NONE", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "ACTIVE", "NONE", "PROVISIONING", "ACTIVE"]
    nodes = ["READY", "READY", "PREEMPTED", "READY"]
    play = Play(tmp_path, 2, states, nodes, ["hangs", "stops", "finishes"])
    # Of v4, sixteen are two hosts.
    variables = {"SPOT": "1", "ACCELERATOR": "v4-16", "WORKDIR": WORKDIR}
    said = play("run", "smyrf", "us-a", "configs/quickstart.py", *FLAGS, **variables).stderr
    assert len(play.calls("create")) == 2
    assert len(play.calls("delete")) == 1
    assert "Waiting for the slice: WAITING_FOR_RESOURCES" in said
    assert "under way on 2 host(s)" in said
    assert "The slice is PREEMPTED" in said
    # Only the first process says that it was asked to stop.
    assert "(restart 1)" in said
    assert "The run has its steps." in said.splitlines()[-1]
    for worker in play.workers:
        assert play.trained_with(worker) == run_flags()
        assert (tmp_path / worker / "smyrf" / "train.status").read_text() == "done\n"
    # The whole log is in the bucket, under the worker's name.
    copies = {command[-1] for command in play.calls("storage")}
    assert copies == {f"{WORKDIR}/logs/{worker}.log" for worker in play.workers}


def test_a_run_that_stopped_or_failed_is_started_again(tmp_path):
    play = Play(tmp_path, 1, ["NONE", "ACTIVE"], ["READY"], ["stops", "fails", "finishes"])
    setup = "touch $HOME/'the data'"
    said = play("run", "smyrf", "us-a", "configs/quickstart.py", *FLAGS, SETUP=setup).stderr
    assert (tmp_path / "worker0" / "the data").exists()
    assert "(restart 1)" in said
    assert "(restart 2)" in said
    assert (tmp_path / "count.worker0").read_text() == "3\n"
    assert play.trained_with("worker0") == run_flags(workers_see=None)
    # Called again it starts again: there may be more steps, or another config.
    play("run", "smyrf", "us-a", "configs/quickstart.py")
    assert (tmp_path / "count.worker0").read_text() == "4\n"
    assert len(play.calls("create")) == 1
    logs = play("logs", "smyrf", "us-a", "+1").stdout.splitlines()
    assert logs[:2] == ["worker0: run 1", "worker0: Asked to stop after step 3. The same command continues."]
    assert logs[-1] == "worker0: run 4"
    play("down", "smyrf", "us-a")
    assert len(play.calls("delete")) == 1


def test_what_always_fails_ends_with_its_log(tmp_path):
    play = Play(tmp_path, 1, ["ACTIVE"], ["READY"], ["fails", "fails"])
    result = play("run", "smyrf", "us-a", "configs/quickstart.py", RESTARTS="1", status=1)
    assert "worker0: no such folder" in result.stdout
    assert "failed 2 times" in result.stderr
    assert not play.calls("create")


def test_a_request_that_is_refused_ends(tmp_path):
    play = Play(tmp_path, 1, ["NONE"], ["READY"], [])
    (tmp_path / "refused").touch()
    assert "refused" in play("run", "smyrf", "us-a", "configs/quickstart.py", status=1).stderr


def test_a_slice_that_is_no_spot_slice_is_never_deleted(tmp_path):
    play = Play(tmp_path, 1, ["ACTIVE"], ["STOPPED"], [])
    assert "down smyrf us-a" in play("run", "smyrf", "us-a", "configs/quickstart.py", status=1).stderr
    assert not play.calls("delete")


def test_what_marks_a_stopped_run_is_what_training_says():
    mark = "Asked to stop after step"
    assert f'"{mark}"' in (ROOT / "launch" / "worker.sh").read_text()
    assert any(mark in path.read_text() for path in (ROOT / "training").glob("*.py"))


def test_a_worker_passes_signals_on_and_says_that_it_was_stopped(tmp_path):
    trap = "trap 'echo Asked to stop after step 5.; exit 0' TERM; echo ready; while true; do sleep 0.1; done"
    worker = subprocess.Popen(
        [ROOT / "launch/worker.sh", "bash", "-c", trap], cwd=tmp_path, stdout=subprocess.PIPE
    )
    try:
        assert worker.stdout.readline() == b"ready\n"
        other = subprocess.run(["flock", "--nonblock", "train.lock", "true"], cwd=tmp_path)
        assert other.returncode == 1
        worker.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert worker.wait(timeout=20) == 75
        assert time.monotonic() - started < 10
    finally:
        worker.kill()
        worker.stdout.close()
    assert (tmp_path / "train.status").read_text() == "stopped\n"
    assert "Asked to stop after step 5." in (tmp_path / "train.log").read_text()
