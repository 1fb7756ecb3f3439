"""Checks that saved models compute the same in a fresh process, where only tfreg was imported."""

import dataclasses
import subprocess
import sys
import tempfile

import numpy as np

from tfreg import backend
from tfreg.cli.tables import print_table

# Two processes may round differently: on a GPU each chooses its algorithms anew.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-5, 1e-6
RELOAD = "import sys; from tfreg.cli.reload import write_outcomes; write_outcomes(*sys.argv[1:])"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model's loss and predictions on the test set."""

    loss: float
    predictions: np.ndarray

    def equals(self, other):
        """Whether both are the same up to rounding; NaN equals nothing."""
        return all(
            np.allclose(ours, theirs, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE)
            for ours, theirs in zip(dataclasses.astuple(self), dataclasses.astuple(other))
        )


def outcome_of(model, inputs, labels):
    logs = model.evaluate(inputs, labels, batch_size=len(inputs), verbose=0, return_dict=True)
    return Outcome(float(logs["loss"]), model(inputs, training=False).numpy())


def write_outcomes(keras_name, data_file, outcomes_file, *model_files):
    """Loads models and writes their outcomes on the test set in `data_file`."""
    keras = getattr(backend, keras_name)
    with np.load(data_file) as data:
        test_set = data["inputs"], data["labels"]
    outcomes = [outcome_of(keras.models.load_model(file), *test_set) for file in model_files]
    losses, predictions = zip(*map(dataclasses.astuple, outcomes))
    np.savez(outcomes_file, losses=losses, predictions=predictions)


def outcomes_in_fresh_process(keras_name, inputs, labels, model_files):
    with tempfile.TemporaryDirectory() as directory:
        data_file, outcomes_file = f"{directory}/data.npz", f"{directory}/outcomes.npz"
        np.savez(data_file, inputs=inputs, labels=labels)
        command = [sys.executable, "-c", RELOAD, keras_name, data_file, outcomes_file]
        process = subprocess.run([*command, *model_files], capture_output=True, text=True)
        if process.returncode != 0:
            sys.exit(f"{process.stderr}\ntfreg demo: a fresh process could not load the models")
        with np.load(outcomes_file) as outcomes:
            return [Outcome(*pair) for pair in zip(outcomes["losses"], outcomes["predictions"])]


def report_reload(names, saved, reloaded):
    """Prints how the models' outcomes compare, and exits with an error if any differ."""
    rows = [["file", "loss before", "after", "predictions differ by", ""]]
    models = list(zip(names, saved, reloaded, strict=True))
    different = [name for name, before, after in models if not before.equals(after)]
    for name, before, after in models:
        verdict = "DIFFERENT" if name in different else "equal"
        losses = [f"{outcome.loss:.6f}" for outcome in (before, after)]
        difference = np.abs(before.predictions - after.predictions).max()
        rows.append([name, *losses, f"{difference:.1e}", verdict])
    print_table("<>>><", rows, "The models, saved and loaded in a fresh process:")
    if different:
        sys.exit(f"tfreg demo: not the same when loaded as when saved: {', '.join(different)}")
