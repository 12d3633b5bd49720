"""Prints the JobSet that trains a config on a TPU slice of a GKE cluster.

    python -m launch.jobset --name=smyrf --topology=v5e:4x4 --image=IMAGE --workdir=gs://bucket/run \\
        configs/celeba128_smyrf.py --config.data.path=/data | kubectl apply -f -

A pod a host. When one of them fails, is evicted or is asked to stop, all are started again, and the run
goes on from its last checkpoint. docs/distributed.md says what the cluster needs.
"""

import argparse
import sys
from typing import Any

import yaml

from launch.topology import Topology, parse

# What GKE calls the nodes of slices.
ACCELERATORS = {
    "v3": "tpu-v3-slice",
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}


def jobset(
    name: str,
    topology: Topology,
    image: str,
    command: list[str],
    *,
    workdir: str,
    spot: bool = False,
    max_restarts: int = 100,
    service_account: str | None = None,
) -> dict[str, Any]:
    """The manifest.

    command: of every host, without --workdir.
    max_restarts: of all the pods, after which the JobSet has failed.
    service_account: of Kubernetes, which may write to the bucket; None: the namespace's own.

    Raises:
        ValueError: GKE has no such slices, or the folder is in no bucket.
    """
    if topology.chip not in ACCELERATORS:
        raise ValueError(f"topology: GKE has no {topology.chip}; take one of {', '.join(ACCELERATORS)}.")
    if not workdir.startswith("gs://"):
        raise ValueError(f"workdir should be a folder in a bucket, as gs://bucket/run, but got {workdir!r}.")
    chips = {"google.com/tpu": topology.num_chips_per_host}
    accelerator = ACCELERATORS[topology.chip]
    if topology.chip == "v3" and topology.num_hosts == 1:
        accelerator = "tpu-v3-device"
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": accelerator,
        "cloud.google.com/gke-tpu-topology": topology.shape,
    }
    container = {
        "name": "train",
        "image": image,
        # Of a run that was asked to stop the exit status is 75: only a run that has its steps is complete.
        "command": [_literal(part) for part in ("launch/worker.sh", *command, f"--workdir={workdir}")],
        "ports": [{"containerPort": 8471}, {"containerPort": 8476}],  # of TPUs, of JAX's first process
        "resources": {"requests": dict(chips), "limits": dict(chips)},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        # To finish a step and save.
        "terminationGracePeriodSeconds": 300,
        "nodeSelector": nodes,
        "containers": [container],
    }
    if service_account is not None:
        pod["serviceAccountName"] = service_account
    if spot:
        nodes["cloud.google.com/gke-spot"] = "true"
        pod["tolerations"] = [
            {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        ]
    job = {
        "parallelism": topology.num_hosts,
        "completions": topology.num_hosts,
        "backoffLimit": 0,  # one pod alone is not started again: all are
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": name,
            # All pods on the nodes of one slice.
            "annotations": {
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool",
            },
        },
        "spec": {
            "failurePolicy": {"maxRestarts": max_restarts},
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": {"spec": job}}],
        },
    }


def _literal(argument: str) -> str:
    """Kubernetes reads $(NAME) as a variable."""
    return argument.replace("$(", "$$(")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--name", required=True, help="of the JobSet")
    parser.add_argument("--topology", required=True, help="as v5e:4x4, v4:2x2x4, v6e:8x8")
    parser.add_argument("--image", required=True, help="a container image of launch/Dockerfile")
    parser.add_argument("--workdir", required=True, help="gs://bucket/folder of the run")
    parser.add_argument("--spot", action="store_true", help="on spot nodes")
    parser.add_argument("--max_restarts", type=int, default=100)
    parser.add_argument("--service_account", help="of Kubernetes, which may write to the bucket")
    parser.add_argument("config", help="a file of configs/; what follows goes to the training command")
    options, rest = parser.parse_known_args(argv)
    command = ["python", "-m", "biggan.train", f"--config={options.config}", *rest]
    try:
        manifest = jobset(
            options.name,
            parse(options.topology),
            options.image,
            command,
            workdir=options.workdir,
            spot=options.spot,
            max_restarts=options.max_restarts,
            service_account=options.service_account,
        )
    except ValueError as error:
        parser.error(str(error))
    yaml.safe_dump(manifest, sys.stdout, sort_keys=False)


if __name__ == "__main__":
    main(sys.argv[1:])
