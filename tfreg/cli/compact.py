"""`tfreg compact`: a smaller model with equal outputs, from a file into a file."""

import collections
import contextlib
import importlib
import logging
import math
import os
import pathlib
import sys
import tempfile

from tfreg import backend
from tfreg.cli.tables import print_table
from tfreg.model.contents import Contents
from tfreg.structure.compact import compact
from tfreg.structure.couplings import couple, traced

# What both Keras 3 and tf_keras save a whole model into.
ENDINGS = (".keras", ".h5")


def import_modules(names):
    """Imports modules that register layers and penalties, those of the working directory first."""
    if names:
        sys.path.insert(0, os.getcwd())
    for name in names:
        importlib.import_module(name)


def run(source, target, fold):
    """Compacts the model in the file `source` into the file `target`, and prints what went."""
    model = _loaded(source)
    try:
        with _silenced(logging.getLogger(compact.__module__)):  # what it logs is printed below
            small = compact(model, fold=fold)
    except (TypeError, ValueError, NotImplementedError) as error:
        sys.exit(f"tfreg compact: {error}")
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


def _loaded(source):
    try:
        return backend.load_model(str(source))
    except Exception as error:  # of whatever kind the libraries that read files raise
        sys.exit(
            f"tfreg compact: {source} cannot be loaded: {error}\n"
            "If it has layers, functions or penalties of your own, name the module that registers "
            "them: --import MODULE"
        )


@contextlib.contextmanager
def _silenced(logger):
    """A scope without the records of a logger."""

    def refuse(record):
        return False

    logger.addFilter(refuse)
    try:
        yield
    finally:
        logger.removeFilter(refuse)


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


def multiply_adds(model):
    """The multiplications with weights for one example, as `Coupling.cost` counts them."""
    trace, _ = traced(model, None)
    uses = [use for step in trace.steps for use in step.uses]
    return int(sum(times * math.prod(variable.shape) for variable, times in uses))


def _save(model, target):
    """Saves `model`; a save that fails leaves the file that was there."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tfreg-") as directory:
        file = pathlib.Path(directory) / target.name
        try:
            model.save(file)
        except Exception as error:  # as for loading
            sys.exit(f"tfreg compact: the smaller model cannot be saved: {error}")
        os.replace(file, target)


def _print_totals(names, before, after):
    rows = [["", "before", "after", ""]]
    for name, large, small in zip(names, before, after):
        share = f"{small / large:.0%}" if large else ""
        rows.append([name, f"{large:,}", f"{small:,}", share])
    print_table("<>>>", rows)
