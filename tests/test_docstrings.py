"""The examples in docstrings run and give what they say; public names have what they owe."""

import doctest
import importlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfreg

NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")
MODULES = ["tfreg"] + [
    module.name
    for module in pkgutil.walk_packages(tfreg.__path__, "tfreg.")
    if not module.name.endswith("__main__")
]


class NumbersMayDifferInRounding(doctest.OutputChecker):
    def check_output(self, want, got, optionflags):
        if NUMBER.sub("#", want).split() != NUMBER.sub("#", got).split():
            return False
        wanted, gotten = ([float(n) for n in NUMBER.findall(text)] for text in (want, got))
        return np.allclose(wanted, gotten, rtol=1e-6)


def examples(module):
    names = {"tfreg": tfreg, "tf": tf, "keras": keras}
    tests = doctest.DocTestFinder().find(importlib.import_module(module), extraglobs=names)
    return [test for test in tests if test.examples]


@pytest.mark.parametrize(
    "example", [e for module in MODULES for e in examples(module)], ids=lambda e: e.name
)
def test_example(example):
    report: list[str] = []
    runner = doctest.DocTestRunner(NumbersMayDifferInRounding())
    runner.run(example, out=report.append)
    assert runner.failures == 0, "".join(report)


# What users are given, and do not make.
RESULTS = {"Report"}
MADE = [name for name in tfreg.__all__ if name[0].isupper() and name not in RESULTS]


@pytest.mark.parametrize("name", MADE)
def test_a_docstring_has_its_parts(name):
    summary, formula, *_ = (doc := getattr(tfreg, name).__doc__).split("\n\n")
    assert "\n" not in summary and summary.endswith(".")
    assert formula.strip().startswith("`")
    for part in ["Args:", "Raises:", "Example:"]:
        assert part in doc
