"""What the benchmarks share: options, environment, answer check, timing, tables and JSON."""

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import pathlib
import platform
import random
import re
import time
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
import tf_keras

import tfreg

# A shorter sample is at the mercy of the clock and the scheduler, and on a GPU the wait for the
# device at its end counts.
SAMPLE_SECONDS = {"CPU": 5e-3, "GPU": 30e-3}


def parser(description):
    """The options that every benchmark has."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--quick", action="store_true", help="less of everything")
    result.add_argument("--repeats", type=positive, help="samples of each run")
    result.add_argument(
        "--penalty", type=re.compile, default="", metavar="REGEX", help="only those so named"
    )
    result.add_argument("--out", metavar="FILE", help="where to write the measurements as JSON")
    return result


def positive(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def shape(text):
    result = tuple(positive(length) for length in text.split("x"))
    if len(result) < 2:
        raise ValueError
    return result


def environment():
    """What a ratio may depend on besides the code that is measured."""
    return {
        "tfreg": tfreg.__version__,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tf_keras": tf_keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "device": _device(),
    }


def _processor():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(": ", 1)[1] for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _device():
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return "CPU"
    return tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")


def environment_line():
    return ", ".join(f"{name} {value}" for name, value in environment().items())


def check_answer(what, actual, expected, tolerance):
    """The error relative to the largest `expected`; ends the program if it is too large or NaN."""
    error = float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))
    if not error <= tolerance:
        raise SystemExit(f"Wrong answer: {what} is off by {error:.1e}, more than {tolerance:.0e}.")
    return error


def in_fresh_process(function, *arguments, environment=None):
    """What `function`, of a module that can be imported, returns or raises in a new process."""
    # A fork would inherit TensorFlow's memory, but not its threads.
    spawn = multiprocessing.get_context("spawn")
    with mock.patch.dict(os.environ, environment or {}):
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as process:
            return process.submit(function, *arguments).result()


@functools.cache
def has_gpu():
    return bool(tf.config.get_visible_devices("GPU"))


def wait_for_device():
    """Returns when the device is done: a CPU's results are there when a call returns."""
    if has_gpu():
        tf.test.experimental.sync_devices()


def copy(w):
    """A callable that reads and writes as many bytes as a copy of `w` does, on its device."""
    if has_gpu():
        # TensorFlow has no operation that must copy: tf.identity returns the tensor it was given.
        return functools.partial(tf.function(lambda w: w * 2.0, autograph=False), w)
    copied = w.numpy()
    return functools.partial(np.copyto, np.empty_like(copied), copied)


def _seconds(run, calls):
    start = time.perf_counter()
    for _ in range(calls):
        run()
    # Once for all calls: a GPU computes while the next call is launched.
    wait_for_device()
    return (time.perf_counter() - start) / calls


def _calls_per_sample(run):
    # The first calls compile and allocate.
    _seconds(run, calls=2)
    sample_seconds = SAMPLE_SECONDS["GPU" if has_gpu() else "CPU"]
    return max(1, round(sample_seconds / min(_seconds(run, calls=1) for _ in range(3))))


def interleaved_samples(runs, repeats):
    """Seconds per call of each of the callables `runs`, in each round.

    A round takes one sample of every run, in an order of its own, so that noise that lasts hits all
    alike, and none always comes behind the same other.
    """
    calls = {key: _calls_per_sample(run) for key, run in runs.items()}
    samples: dict = {key: [] for key in runs}
    rng = random.Random(0)
    for _ in range(repeats):
        for key in rng.sample(list(runs), len(runs)):
            samples[key].append(_seconds(runs[key], calls[key]))
    return samples


def interleaved_quartiles(runs, repeats):
    """The quartiles of `interleaved_samples`."""
    samples = interleaved_samples(runs, repeats)
    return {key: quartiles(taken) for key, taken in samples.items()}


def quartiles(samples):
    return np.percentile(samples, [25, 50, 75]).tolist()


def paired_ratios(samples, base):
    """The quartiles of the ratios within a round, which noise longer than a round leaves alone."""
    return quartiles(np.divide(samples, base))


def ratio(quartiles, base):
    """The ratio of the medians; a dash where there is no `base`."""
    return "-" if base is None else f"{quartiles[1] / base[1]:.2f}"


def ratio_and_spread(quartiles, base):
    return with_spread([seconds / base[1] for seconds in quartiles])


def with_spread(quartiles):
    low, median, high = quartiles
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def print_table(header, rows):
    """Prints a Markdown table of strings."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    for row in (header, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


def write_json(path, measurements):
    """Writes the environment and `measurements`, a list of dicts, to the file `path`."""
    contents = {"environment": environment(), "measurements": measurements}
    pathlib.Path(path).write_text(json.dumps(contents, indent=2) + "\n")
