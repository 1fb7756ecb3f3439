"""`tfreg compact`: a smaller model with equal outputs, from a file into a file."""

import collections
import os
import pathlib
import tempfile

from tfreg.cli.files import fail, load, reason, silenced
from tfreg.cli.tables import print_table
from tfreg.model.contents import Contents
from tfreg.reporting.totals import multiply_adds
from tfreg.structure.compact import compact
from tfreg.structure.couplings import couple

COMMAND = "compact"


def run(source, target, fold):
    """Compacts the model in the file `source` into the file `target`, and prints what went."""
    model = load(COMMAND, source)
    try:
        with silenced(compact.__module__):  # what it logs is printed below
            small = compact(model, fold=fold)
    except (TypeError, ValueError, NotImplementedError) as error:
        fail(COMMAND, str(error))
    changed = _changed_weights(model, small)
    before = [model.count_params(), multiply_adds(model), source.stat().st_size]
    _save(small, target)
    after = [small.count_params(), multiply_adds(small), target.stat().st_size]
    if not changed:
        print(f"Nothing can be cut from {source}: none of its entries is dead.\n")
        print(couple(model))
        print(f"\nA copy of the model is {target}")
        return
    print_table("<>>", [["weight", "before", "after"], *changed])
    _print_totals(["parameters", "multiply-adds", "bytes of the file"], before, after)
    print(f"\nThe smaller model is {target}")


def _changed_weights(model, small):
    """The path and both shapes of each weight that lost something, or is new."""
    earlier = collections.defaultdict(list)  # two weights may have the same path
    for weight in Contents(model).weights:
        earlier[weight.path].append(_shape(weight))
    changed = []
    for weight in Contents(small).weights:
        shapes = earlier[weight.path]
        before, after = shapes.pop(0) if shapes else "none", _shape(weight)
        if before != after:
            changed.append([weight.path, before, after])
    return changed


def _shape(weight):
    return " x ".join(map(str, weight.variable.shape))


def _save(model, target):
    """Saves `model`; a save that fails leaves the file that was there."""
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tfreg-") as directory:
            file = pathlib.Path(directory) / target.name
            model.save(file)
            os.replace(file, target)
    except Exception as error:  # of whatever kind the libraries that write files raise
        fail(COMMAND, f"the smaller model cannot be saved: {reason(error)}")


def _print_totals(names, before, after):
    rows = [["", "before", "after", ""]]
    for name, large, small in zip(names, before, after):
        share = f"{small / large:.0%}" if large else ""
        rows.append([name, f"{large:,}", f"{small:,}", share])
    print_table("<>>>", rows)
