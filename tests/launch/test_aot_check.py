"""The check that a config fits a TPU slice, by the TPU's own compiler."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "launch.aot_check", "--config=configs/quickstart.py", "--json"]
# Programs of devices that are not there cannot be read again.
ENVIRONMENT = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}


@pytest.mark.slow
def test_a_small_config_fits_and_a_large_batch_does_not():
    fits = subprocess.run(COMMAND, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    result = json.loads(fits.stdout.splitlines()[-1])
    assert result["devices"] == 8
    assert 0.02 < result["peak_gib"] < 2
    assert result["cycles"] > 1e6
    assert 0 < result["attention"] < 1
    assert result["images_per_second"] > 0
    large = subprocess.run(
        [*COMMAND, "--config.batch_size=4096"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert large.returncode == 1
    assert "does not fit v3:2x2" in large.stdout
