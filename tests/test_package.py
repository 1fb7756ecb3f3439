"""The package's structure: imports point one way, and only the backend imports a Keras."""

import ast
import pathlib
import subprocess
import sys

import pytest

import tfreg

PACKAGE = pathlib.Path(tfreg.__file__).parent
# Each module or package may import what stands before it; within one, the same holds of its files.
ORDER = [
    "checks",
    "read_only",
    "backend",
    "compute",
    "kernels",
    "layout",
    "runs",
    "sets",
    "slices",
    "groups",
    "features",
    "steps",
    "schedules",
    "inventory",
    "layers",
    "distributions",
    "traits",
    "penalties",
    "model",
    "structure",
    "proximal",
    "reporting",
    "callbacks",
    "__init__",
    "cli",
    "__main__",
]
# Files that none of their package imports, and that need no place of their own.
OTHERS = "*"
WITHIN = {
    "backend": [
        "apis",
        "serialization",
        "files",
        "tensors",
        "graphs",
        "restoring",
        "models",
        "references",
        "rebuilding",
        "training",
        "optimizers",
        "__init__",
    ],
    "compute": [
        "numerics",
        "views",
        "tables",
        "lines",
        "direct",
        "cpu",
        "gpu",
        "tiles",
        "tpu",
        "reductions",
        "policy",
        "magnitudes",
        "kernels",
    ],
    "layers": ["registry", "built_in", "__init__"],
    "penalties": [
        "registry",
        "base",
        "elementwise",
        "grouped",
        "group_lasso",
        "mcp",
        "joint",
        OTHERS,
        "__init__",
    ],
    "model": [
        "contents",
        "selection",
        "terms",
        "coupled",
        "penalized",
        "carried",
        "attached",
        "attach",
        "__init__",
    ],
    "structure": [
        "labels",
        "tracing",
        "axes",
        "channelwise",
        "normalizations",
        "kernels",
        "convolutions",
        "recurrent",
        "wrappers",
        "attention",
        "reshapes",
        "slicing",
        "joining",
        "shapes",
        "rules",
        "coupling",
        "couplings",
        "constants",
        "liveness",
        "configs",
        "edits",
        "transfer",
        "regularizers",
        "compact",
        "__init__",
    ],
    "proximal": [
        "zeros",
        "bound",
        "target",
        "widths",
        "removal",
        "magnitude",
        "budgets",
        "stepping",
        "optimizer",
        "listing",
        "__init__",
    ],
    "reporting": [
        "logs",
        "themes",
        "drawing",
        "plots",
        "histories",
        "curves",
        "weight_views",
        "weight_panels",
        "weight_maps",
        "zeros",
        "totals",
        "penalized",
        "tables",
        "sections",
        "comparison",
        "report",
        "course",
        "callbacks",
        "pictures",
        "summaries",
        "target_sparsity",
        "tensorboard",
        "__init__",
    ],
    "cli": [
        "tables",
        "files",
        "reload",
        "training",
        "compact",
        "report",
        "smaller",
        "demo",
        "__init__",
    ],
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """The dotted name of a module within the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def is_for_types_alone(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports(path):
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if not is_for_types_alone(node)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(name):
    """Where in the order a module stands, or the module that a name is imported from."""
    first, _, rest = name.partition(".")
    if first not in ORDER:
        return ORDER.index("__init__"), 0
    within = WITHIN.get(first, ["__init__"])
    second = rest.split(".")[0]
    if second not in within:
        is_file = (PACKAGE / first / f"{second}.py").exists()
        second = OTHERS if is_file and OTHERS in within else "__init__"
    return ORDER.index(first), within.index(second)


def test_imports_point_one_way():
    backward = [
        f"{name_of(path)} imports {name}"
        for path in FILES
        for name in imports(path)
        if name.startswith("tfreg.") and not place(name[len("tfreg.") :]) < place(name_of(path))
    ]
    assert backward == [], "ORDER and WITHIN say what may import what"


def test_every_module_has_its_place():
    expected = {*ORDER} - {*WITHIN}
    expected |= {f"{package}.{name}" for package, names in WITHIN.items() for name in names}
    there = {name_of(path) for path in FILES} - {"compute.__init__"}
    with_others = {package for package, names in WITHIN.items() if OTHERS in names}
    new = [name for name in there - expected if name.partition(".")[0] not in with_others]
    assert sorted(new) == [], "put them into ORDER or WITHIN"
    expected -= {f"{package}.{OTHERS}" for package in with_others}
    assert sorted(expected - there) == [], "take them out of ORDER or WITHIN"


def test_only_the_backend_imports_a_keras():
    others = [
        f"{name_of(path)} imports {name}"
        for path in FILES
        if not name_of(path).startswith("backend.")
        for name in imports(path)
        if name.split(".")[0] in ("keras", "tf_keras")
    ]
    assert others == []


def test_each_public_name_is_there_once():
    assert len(set(tfreg.__all__)) == len(tfreg.__all__)
    assert all(hasattr(tfreg, name) for name in tfreg.__all__)


@pytest.mark.slow
def test_import_brings_neither_probability_nor_plots():
    # Keras itself imports matplotlib where that is installed.
    code = """
import sys
import keras, tf_keras
before = set(sys.modules)
import tfreg
print({name.split(".")[0] for name in set(sys.modules) - before})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{'tfreg'}", done.stdout + done.stderr
