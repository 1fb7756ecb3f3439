"""Clusters of processes on loopback, none of which outlives its test."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

TESTS = pathlib.Path(__file__).parent


def loopback(**tasks):
    """A cluster with that many tasks of each kind, on ports that are free."""
    with contextlib.ExitStack() as stack:
        # All are taken before any is given back, so that no two are the same.
        def free_address():
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            return f"127.0.0.1:{taken.getsockname()[1]}"

        return {kind: [free_address() for _ in range(number)] for kind, number in tasks.items()}


class Process:
    """A job of `jobs.py` as one task of a cluster."""

    def __init__(self, job, arguments, cluster, kind, index, folder):
        task = {"cluster": cluster, "task": {"type": kind, "index": index}}
        name = f"{job}-{kind}-{index}"
        self.output, self.errors = folder / f"{name}.out", folder / f"{name}.err"
        with open(self.output, "w") as output, open(self.errors, "w") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "jobs", job, json.dumps(arguments)],
                stdout=output,
                stderr=errors,
                cwd=TESTS,
                env={**os.environ, "TF_CONFIG": json.dumps(task), "GRPC_VERBOSITY": "NONE"},
            )

    def result(self):
        """What the job returned, once it has ended."""
        assert self.popen.returncode == 0, (self.popen.returncode, self.errors.read_text()[-3000:])
        return json.loads(self.output.read_text().splitlines()[-1])


@contextlib.contextmanager
def running(*processes):
    """Ends the processes that are left."""
    try:
        yield processes
    finally:
        for process in processes:
            process.popen.kill()
            process.popen.wait()


def wait_for(processes, timeout):
    """Waits until all have ended or one has failed."""
    deadline = time.monotonic() + timeout
    while any(process.popen.poll() is None for process in processes):
        if any(process.popen.returncode for process in processes):
            return
        assert time.monotonic() < deadline, [p.errors.read_text()[-3000:] for p in processes]
        time.sleep(0.1)


def wait_for_failure(process, timeout):
    process.popen.wait(timeout)
    assert process.popen.returncode != 0
