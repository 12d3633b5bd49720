"""A run in a bucket: what tests can know of gs:// is what a server on loopback answers."""

import os
import signal
import subprocess
import sys

import pytest

from tests.training.bucket import bucket
from tests.training.many import ROOT
from tests.training.numbers import rows, rows_of

pytestmark = pytest.mark.process


def train(address, workdir, *flags):
    environment = {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_CLOUD_PROJECT": "project",
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.training.numbers", f"--workdir={workdir}", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_run_in_a_bucket_stops_and_goes_on_as_on_a_disk(tmp_path):
    with bucket() as (address, store):
        train(address, tmp_path)
        output = train(address, "gs://bucket/run", f"--signal={int(signal.SIGTERM)}", "--at=3")
        assert "Asked to stop after step 3" in output
        # The newest checkpoint is cut: it is set aside, and the one before taken.
        for name, (data, _) in list(store.objects.items()):
            if name[1].startswith("run/checkpoints/3/"):
                store.put(*name, data[:-1])
        output = train(address, "gs://bucket/run")
        assert "DAMAGED: what came after step 2 is lost. It is kept in gs://bucket/run" in output
        assert "Continues gs://bucket/run at step 2" in output
        names = {name for _, name in store.objects}
        metrics = store.objects["bucket", "run/metrics.jsonl"][0].decode()
    assert rows_of(metrics) == rows(tmp_path)
    assert {"run/config.json", "run/evaluations.txt"} <= names
    assert "run/run.lock" not in names
    for part in ("run/checkpoints/6/", "run/checkpoints.damaged/3/", "run/tensorboard/"):
        assert any(name.startswith(part) for name in names)
