import os

# Read when TensorFlow is imported, by the tests and by the processes that they start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", os.environ.get("TFREG_TEST_GPU", ""))

import importlib
import json
import pathlib
import subprocess
import sys

import hypothesis
import keras
import pytest
import tensorflow as tf
import tf_keras

import tfreg
from tfreg.compute import kernels

# Devices to distribute over; a process can set them only before it uses the first.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)

# On a GPU, matrix products of XLA and of plain graphs agree to rounding only without TF32.
tf.config.experimental.enable_tensor_float_32_execution(False)

hypothesis.settings.register_profile(
    "deterministic", derandomize=True, database=None, deadline=None, print_blob=False
)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(params=["keras", "tf_keras"])
def api(request):
    """Keras 3, then tf_keras."""
    return {"keras": keras, "tf_keras": tf_keras}[request.param]


@pytest.fixture
def jit():
    """Sets the compile policy, for one test."""
    yield tfreg.kernels.set_jit
    tfreg.kernels.set_jit("auto")


@pytest.fixture(scope="module")
def a_trace_for_every_shape():
    """As in a fresh process, also after many tests: one for any shape is no device's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "MAX_STATIC_TRACES", 10**6)
        yield


@pytest.fixture
def benchmark(monkeypatch):
    """The module of a benchmark, by its name."""
    monkeypatch.syspath_prepend(pathlib.Path(__file__).parents[1])
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def run_fresh():
    """Runs Python code in a fresh process and returns the JSON that it prints last."""

    def run(code, *arguments, env=None, timeout=240):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run
