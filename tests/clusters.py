"""Clusters of processes on loopback, none of which outlives its test."""

import contextlib
import itertools
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
    return {kind: [_free_address() for _ in range(number)] for kind, number in tasks.items()}


def _free_address():
    # Below the ports that a system gives to whoever asks for any, and another range for each
    # process that runs tests: nothing takes them before the tasks do.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = 12000 + 1000 * worker + next(_count) % 1000
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return f"127.0.0.1:{port}"


_count = itertools.count(os.getpid())


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
    """Waits until all have ended; the first one that fails is an AssertionError."""
    deadline = time.monotonic() + timeout
    while any(code is None for code in [process.popen.poll() for process in processes]):
        for process in processes:
            if process.popen.returncode:
                process.result()
        assert time.monotonic() < deadline, [p.errors.read_text()[-3000:] for p in processes]
        time.sleep(0.1)
