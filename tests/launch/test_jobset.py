"""Slices' shapes, and the manifests of jobs on GKE."""

import pathlib
import subprocess
import sys

import pytest
import yaml

from launch.jobset import jobset, main
from launch.topology import parse

ROOT = pathlib.Path(__file__).parent.parent.parent
OPTIONS = ["--name=smyrf", "--image=image", "--workdir=gs://bucket/run"]


def manifest(capsys, *arguments):
    main([*OPTIONS, *arguments])
    return yaml.safe_load(capsys.readouterr().out)


def pods(job):
    (replicated,) = job["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    spec = replicated["template"]["spec"]
    assert spec["backoffLimit"] == 0
    return spec, spec["template"]["spec"]


@pytest.mark.parametrize(
    ("topology", "label", "shape", "hosts", "chips"),
    [
        ("v3:2x2", "tpu-v3-device", "2x2", 1, 4),
        ("v3:4x4", "tpu-v3-slice", "4x4", 4, 4),
        ("v4:2x2", "tpu-v4-podslice", "2x2x1", 1, 4),
        ("v4:2x2x4", "tpu-v4-podslice", "2x2x4", 4, 4),
        ("v5e:1x1", "tpu-v5-lite-podslice", "1x1", 1, 1),
        ("v5e:2x4", "tpu-v5-lite-podslice", "2x4", 1, 8),
        ("v5e:4x4", "tpu-v5-lite-podslice", "4x4", 4, 4),
        ("v5p:4x4x8", "tpu-v5p-slice", "4x4x8", 32, 4),
        ("v6e:16x16", "tpu-v6e-slice", "16x16", 64, 4),
    ],
)
def test_a_pod_a_host_with_all_its_chips(capsys, topology, label, shape, hosts, chips):
    job, pod = pods(manifest(capsys, f"--topology={topology}", "configs/quickstart.py"))
    assert job["parallelism"] == job["completions"] == hosts
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": shape,
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": chips}


def test_what_is_started_again_and_how_it_ends(capsys):
    job = manifest(capsys, "--topology=v5e:4x4", "--max_restarts=7", "--spot", "configs/quickstart.py")
    assert (job["apiVersion"], job["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert job["spec"]["failurePolicy"]["maxRestarts"] == 7
    _, pod = pods(job)
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"


def test_flags_stay_what_they_are(capsys):
    flags = ["--config.data.path=a 'b' \"c\" $HOME: #d", "--config.data.name=$(HOME)", "--config.seed=3"]
    _, pod = pods(manifest(capsys, "--topology=v4:2x2x2", "configs/quickstart.py", *flags))
    command = pod["containers"][0]["command"]
    assert command[:4] == ["launch/worker.sh", "python", "-m", "biggan.train"]
    # Kubernetes makes $( of $$(.
    assert [part.replace("$$(", "$(") for part in command[4:]] == [
        "--config=configs/quickstart.py",
        *flags,
        "--workdir=gs://bucket/run",
    ]
    assert "$$(HOME)" in command[6]
    assert (ROOT / command[0]).is_file()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--topology=v5e:4x4", "--workdir=/mnt/run"], "gs://bucket/run"),
        (["--topology=v2:4x4"], "GKE has no v2"),
        (["--topology=v5e:3x3"], "should be even"),
        (["--topology=v3:2x2x2"], "has 2 axes"),
        (["--topology=v9:2x2"], "v2, v3, v4, v5e, v5p, v6e"),
        (["--topology=v5litepod-16"], "v5e:4x4"),
        (["--topology=v4:0x2x2"], "should be even"),
    ],
)
def test_errors_name_what_to_change(capsys, arguments, named):
    with pytest.raises(SystemExit) as stopped:
        main([*OPTIONS, *arguments, "configs/quickstart.py"])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err


@pytest.mark.process
def test_a_manifest_wants_no_jax():
    code = (
        "import sys; from launch.jobset import main; "
        "main(['--name=a', '--image=b', '--workdir=gs://c/d', '--topology=v5e:4x4', 'e']); "
        "assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_manifest_is_a_function_too():
    job = jobset("a", parse("v6e:4x4"), "image", ["true"], workdir="gs://b/c", service_account="writer")
    assert pods(job)[1]["serviceAccountName"] == "writer"
