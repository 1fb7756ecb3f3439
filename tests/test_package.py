"""The package's structure: imports point one way, and only one module knows the Kerases."""

import ast
import pathlib
import subprocess
import sys

import pytest

import tfreg

PACKAGE = pathlib.Path(tfreg.__file__).parent
# Each may import what stands in the groups before its own.
ORDER = [
    {"backend", "checks", "read_only"},
    {"compute"},
    {"inventory", "kernels", "layout", "steps"},
    {"distributions", "groups", "schedules"},
    {"penalties"},
    {"layers"},
    {"selection"},
    {"penalized"},
    {"model"},
    {"proximal"},
    {"reporting"},
    {"__init__"},
    {"__main__"},
]
FILES = sorted(PACKAGE.rglob("*.py"))


PARTS = {part for parts in ORDER for part in parts}


def part_of(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(part):
    return next(i for i, parts in enumerate(ORDER) if part in parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "tfreg":
            part = rest.split(".")[0]
            imported = part if part in PARTS else "__init__"
            assert imported == part_of(path) or level(imported) < level(part_of(path)), name


def test_every_module_has_its_place():
    assert {part_of(path) for path in FILES} <= PARTS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_backend_imports_a_keras(path):
    if part_of(path) != "backend":
        assert not {name.split(".")[0] for name in imports(path)} & {"keras", "tf_keras"}


def test_public_names_are_explicit():
    assert sorted(tfreg.__all__) == tfreg.__all__
    assert all(hasattr(tfreg, name) for name in tfreg.__all__)


def test_import_brings_neither_probability_nor_plots():
    # Keras itself imports matplotlib where that is installed.
    code = """
import sys
import keras, tf_keras
before = set(sys.modules)
import tfreg
print({name.split(".")[0] for name in set(sys.modules) - before})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "{'tfreg'}", done.stdout + done.stderr
