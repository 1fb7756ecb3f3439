"""How much memory does a penalty take beyond the weight and its gradient?

    python -m benchmarks.bench_memory [--quick] [--shape 4096x4096] [--penalty REGEX]
        [--repeats N] [--out FILE]

The peak of what bench_kernels times, less the gradient or the proximal operator's result where
one is returned, as a share of the weight's memory. Each penalty is measured in a process of its
own, after a first run that compiles. The meter is TensorFlow's on a GPU, and the kernel's count
of resident memory on a CPU, which Linux alone has; it is checked first on copies of the weight.
"""

import ctypes
import os
import pathlib
import re

import numpy as np
import tensorflow as tf

from benchmarks import bench_kernels, common, penalties

SHAPES, REPEATS = [(3, 3, 512, 512), (4096, 4096)], 5
QUICK_SHAPES, QUICK_REPEATS = [(2048, 2048)], 2
QUICK_PENALTIES = re.compile("axis=0|Box|output|Sparse")
HEADER = ["penalty", "computes", "graph", "XLA", "graph by hand", "XLA by hand"]
STATUS, CLEAR_REFS = (pathlib.Path("/proc/self", name) for name in ("status", "clear_refs"))
# oneDNN and the C library keep freed blocks, which would be taken again unseen.
ENVIRONMENT = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
METER_TOLERANCE = 0.03
RESULT_OF_THE_WEIGHT = {"value": 0, "gradient": 1, "prox": 1}


def _status(field):
    [line] = [line for line in STATUS.read_text().splitlines() if line.startswith(field)]
    return 1024 * int(line.split()[1])


def peak(perform):
    """The most bytes that `perform` has at a time, beyond those taken before."""
    if common.has_gpu():
        tf.config.experimental.reset_memory_stats("GPU:0")
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        perform()
        common.wait_for_device()
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    perform()
    return _status("VmHWM") - before


def copies(w):
    """Takes three copies and a tensor of them all in a plain graph, and that alone under XLA."""
    return tf.stack([w * float(i) for i in (2, 3, 4)])


def check_meter(w):
    for mode, expected in (("graph", 6.0), ("XLA", 3.0)):
        function = tf.function(copies, jit_compile=bench_kernels.MODES[mode], autograph=False)
        function(w)
        of_the_weight = peak(lambda: function(w)) / w.numpy().nbytes
        what = f"the meter, on copies of the weight, {mode},"
        common.check_answer(what, of_the_weight, expected, METER_TOLERANCE)


def measure(name, shape, repeats):
    """Each `Run` of the case of that name, its readings as shares of the weight, its errors."""
    w = tf.constant(np.random.default_rng(0).normal(0.0, 0.5, shape), tf.float32)
    check_meter(w)
    [case] = [case for case in penalties.cases(shape) if case.name == name]
    measured = []
    for run, perform, errors in bench_kernels.checked_runs(case, w):
        shares = [peak(perform) / w.numpy().nbytes for _ in range(repeats)]
        beyond = [share - RESULT_OF_THE_WEIGHT[run.computes] for share in shares]
        measured.append((run, beyond, errors))
    return measured


def rows(readings):
    def cell(run):
        # Operations of a plain graph that run at a time differ from one reading to the next.
        return f"{max(0.0, *readings[run]):.2f}" if run in readings else "-"

    for first in readings:
        if first.mode == "graph" and first.form != "by hand":
            forms = first, first._replace(form="by hand")
            runs = [form._replace(mode=mode) for form in forms for mode in bench_kernels.MODES]
            yield [first.penalty, first.computes, *map(cell, runs)]


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument("--shape", action="append", type=common.shape, help="repeatable")
    options = parser.parse_args(arguments)
    repeats = options.repeats or (QUICK_REPEATS if options.quick else REPEATS)
    every = options.penalty.pattern or not options.quick
    pattern = options.penalty if every else QUICK_PENALTIES
    if not (common.has_gpu() or os.access(CLEAR_REFS, os.W_OK)):
        raise SystemExit(f"Without a GPU, memory is measured through {CLEAR_REFS} of Linux.")
    print(common.environment_line())
    measurements = []
    for shape in options.shape or (QUICK_SHAPES if options.quick else SHAPES):
        label = "x".join(map(str, shape)) + " float32"
        readings = {}
        for case in penalties.cases(shape, pattern):
            arguments = (case.name, shape, repeats)
            measured = common.in_fresh_process(measure, *arguments, environment=ENVIRONMENT)
            for run, beyond, errors in measured:
                readings[run] = beyond
                measurements.append(
                    {
                        "weight": label,
                        **run._asdict(),
                        "beyond_as_share_of_weight": beyond,
                        "errors": errors,
                    }
                )
        print(f"\n{label}, the largest of {repeats} readings, as shares of the weight\n")
        common.print_table(HEADER, list(rows(readings)))
    if options.out:
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
