"""Starts programs in several processes that meet each other."""

import os
import pathlib
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent.parent


def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return f"localhost:{listener.getsockname()[1]}"


def start(module, num_processes, devices, *flags, of_each=()):
    """Starts processes with so many devices each. of_each: flags of each of them."""
    address = free_address()
    processes = []
    for index in range(num_processes):
        command = [sys.executable, "-m", module, *flags, *(of_each[index] if of_each else ())]
        if num_processes > 1:
            command += [f"--coordinator_address={address}", f"--num_processes={num_processes}"]
            command += [f"--process_id={index}"]
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            # A process is not to run what another one compiled.
            "JAX_ENABLE_COMPILATION_CACHE": "0",
        }
        out = subprocess.PIPE
        processes.append(
            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out, text=True)
        )
    return processes


def ended(processes, seconds=120):
    """Exit status, stdout and stderr of each."""
    try:
        found = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]
