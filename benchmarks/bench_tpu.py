"""What do a penalty's value, gradient and proximal operator cost on a TPU, and in whole steps?

    python -m venv .tpu && . .tpu/bin/activate && pip install -e '.[tpu]'
    python -m benchmarks.bench_tpu [--quick] [--chip v5e] [--shape 16384x16384]
        [--model transformer] [--penalty REGEX] [--out FILE]

Nothing runs: the TPU's own compiler compiles on any x86 machine, and tells the bytes that a program
reads and writes, the temporaries that it needs, and an estimate of its cycles. These are the same
in each run. Weights that fit into the chip's own memory hide the traffic: the default ones do not.

Traffic and temporaries are in weights, a read and a write being 2; cycles are over those of Keras's
L2. Whole steps, with batches of 32 and plain SGD, are over the same with Keras's L2.
"""

import tensorflow as tf

import tfreg
from benchmarks import common, models, penalties, tpu
from benchmarks.bench_kernels import gradient, prox

SHAPES = [(16384, 16384), (3, 3, 8192, 4096), (3, 3, 8192, 1)]
QUICK_SHAPES, QUICK_MODELS = SHAPES[:1], ["dense"]
MODELS, BATCH_SIZE = ["transformer", "resnet"], 32
HEADER = ["penalty", "computes", "traffic", "temporaries", "cycles / L2"]
STEP_HEADER = ["model", "penalty", "through", "traffic / L2", "cycles / L2"]


def figures_of_kernel(form, computes, shape, chip):
    """Those of a penalty, or of a proximal operator, in weights of `shape`."""
    weight = tf.TensorSpec(shape, tf.float32)

    def compute(w):
        return computes(form, w)

    compiled = tf.function(compute, jit_compile=True, autograph=False)
    figures = tpu.compile_for(chip, compiled, weight)
    size = weight.shape.num_elements() * weight.dtype.size
    return figures._replace(traffic=figures.traffic / size, temporaries=figures.temporaries / size)


def measure_kernels(shape, options):
    """The figures of each penalty and proximal operator by name and what is computed."""
    measured = {}
    for case in penalties.cases(shape, options.penalty):
        for computes, forms in ((gradient, case.forms), (prox, case.prox_forms)):
            form = forms.get("tfreg", forms.get("Keras"))
            if form is not None:
                what = case.name, computes.__name__
                measured[what] = figures_of_kernel(form, computes, shape, options.chip)
    return measured


def step_of(model, batch_size=BATCH_SIZE):
    """One step of plain SGD of a model of Keras 3 as a function for XLA, and its arguments."""
    variables = model.trainable_variables
    specs = [
        tf.TensorSpec((batch_size, *shape[1:]), tf.float32)
        for shape in (model.input_shape, model.output_shape)
    ]

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
            loss = tf.add_n([loss, *model.losses])
        for variable, slope in zip(variables, tape.gradient(loss, variables), strict=True):
            variable.value.assign_sub(0.01 * slope)
        return loss

    return tf.function(step, jit_compile=True, autograph=False), specs


def figures_of_step(name, variant, chip):
    """Those of a step of the model of that name with a variant of the penalty."""
    function, arguments = step_of(models.penalized(models.APIS["keras"], name, variant))
    return tpu.compile_for(chip, function, *arguments)


def measure_steps(name, options):
    """The figures of a step of a model by variant of the penalty."""
    return {
        variant: figures_of_step(name, variant, options.chip)
        for variant in models.variants(options.penalty)
    }


def kernel_rows(measured):
    base = measured[penalties.L2_NAME, "gradient"].cycles
    for (name, computes), figures in measured.items():
        numbers = figures.traffic, figures.temporaries, figures.cycles / base
        yield [name, computes, *(f"{number:.2f}" for number in numbers)]


def step_rows(name, measured):
    base = measured[models.L2]
    for variant, figures in measured.items():
        ratios = figures.traffic / base.traffic, figures.cycles / base.cycles
        yield [name, *variant, *(f"{ratio:.3f}" for ratio in ratios)]


def main(arguments=None):
    parser = common.parser(__doc__)
    parser.add_argument("--chip", choices=tpu.TOPOLOGIES, default="v5e")
    parser.add_argument("--shape", action="append", type=common.shape, help="repeatable")
    parser.add_argument("--model", action="append", choices=models.BUILDERS, help="repeatable")
    options = parser.parse_args(arguments)
    tfreg.kernels.set_device("TPU")
    print(common.environment_line())
    measurements = []
    try:
        for shape in options.shape or (QUICK_SHAPES if options.quick else SHAPES):
            label = "x".join(map(str, shape))
            measured = measure_kernels(shape, options)
            print(f"\n{label} float32 on {options.chip}\n")
            common.print_table(HEADER, list(kernel_rows(measured)))
            measurements += [
                {"weight": label, "penalty": name, "computes": computes, **figures._asdict()}
                for (name, computes), figures in measured.items()
            ]
        for name in options.model or (QUICK_MODELS if options.quick else MODELS):
            steps = measure_steps(name, options)
            print(f"\nsteps on {options.chip}\n")
            common.print_table(STEP_HEADER, list(step_rows(name, steps)))
            measurements += [
                {"model": name, **variant._asdict(), **figures._asdict()}
                for variant, figures in steps.items()
            ]
    finally:
        tfreg.kernels.set_device(None)
    if options.out:
        common.write_json(options.out, measurements)


if __name__ == "__main__":
    main()
