"""The check that a config fits a TPU slice, by the TPU's own compiler."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch.topology import parse

ROOT = pathlib.Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "-m", "launch.aot_check", "--config=configs/quickstart.py", "--json"]
# Programs of devices that are not there cannot be read again.
ENVIRONMENT = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}


@pytest.mark.slow
def test_a_small_config_fits_and_a_large_batch_does_not():
    fits = subprocess.run(COMMAND, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    result = json.loads(fits.stdout.splitlines()[-1])
    assert (result["devices"], result["hosts"]) == (8, 1)
    assert 0.02 < result["peak_gib"] < 2
    assert result["cycles"] > 1e6
    assert 0 < result["attention"] < 1
    assert result["images_per_second"] > 0
    large = subprocess.run(
        [*COMMAND, "--config.batch_size=4096"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert large.returncode == 1
    assert "does not fit v3:2x2" in large.stdout


@pytest.mark.slow
def test_a_slice_of_several_hosts():
    command = [*COMMAND, "--topology=v4:2x2x2"]
    fits = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    result = json.loads(fits.stdout.splitlines()[-1])
    # On v4 a chip's two cores are one device.
    assert (result["devices"], result["hosts"]) == (8, 2)
    assert 0.02 < result["peak_gib"] < 2
    assert result["images_per_second"] > 0


@pytest.mark.slow
def test_devices_of_slices():
    expected = {
        "v2:4x4": (32, 4),
        "v3:4x4": (32, 4),
        "v4:2x2": (4, 1),
        "v4:2x2x4": (16, 4),
        "v5e:1x1": (1, 1),
        "v5e:2x4": (8, 1),
        "v5e:4x4": (16, 4),
        "v5p:2x2x2": (8, 2),
        "v6e:2x4": (8, 1),
        "v6e:8x8": (64, 16),
    }
    code = (
        "import os, sys; from launch import schedule; os.environ |= schedule.environment('')\n"
        "from launch.topology import parse\n"
        "for text in sys.argv[1:]:\n"
        "    devices = parse(text).devices()\n"
        "    print(text, len(devices), len({device.process_index for device in devices}))"
    )
    command = [sys.executable, "-c", code, *expected]
    found = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    rows = [line.split() for line in found.stdout.splitlines()]
    assert {text: (int(devices), int(hosts)) for text, devices, hosts in rows} == expected
    for text, (_, hosts) in expected.items():
        assert parse(text).num_hosts == hosts


@pytest.mark.slow
def test_a_topology_that_does_not_exist_is_named():
    command = [*COMMAND, "--topology=v5e:3x3"]
    refused = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "first two numbers should be even" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
