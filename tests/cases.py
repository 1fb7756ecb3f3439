"""The table of the penalties: their tests, random calls and saved files all come from it."""

import dataclasses
import functools
from collections.abc import Callable

import keras
import numpy as np
import oracles
import tensorflow as tf
from hypothesis import strategies as st
from marks import slow

import tfreg

FACTOR = 0.3


@dataclasses.dataclass(frozen=True)
class Case:
    penalty: tfreg.penalties.Penalty
    oracle: Callable  # of a NumPy weight, strength included
    min_rank: int = 1
    has_prox: bool = True
    has_metric_prox: bool = True  # in a diagonal metric
    # Two values of a weight at which the slope differs, also in what shares a term with it.
    probes: tuple[float, float] = (100.0, -200.0)
    is_one_group: bool = False  # of all entries, whatever the weight
    is_first: bool = False  # of its row, and so in every run

    def __str__(self):
        return repr(self.penalty).replace("size_weighted", "sw").replace("group_size", "gs")


@dataclasses.dataclass(frozen=True)
class Row:
    """What the tests know of a penalty."""

    make: Callable  # of a factor, and of its arguments by name
    oracle: Callable  # of a NumPy weight and the same arguments, of factor 1; its defaults too
    # The arguments of its cases. The first are of a weight of rank 2 or less, and no defaults:
    # they are in the files that later releases must load.
    examples: list[dict]
    # For random calls: good values of each argument, ...
    choices: dict[str, list] = dataclasses.field(default_factory=dict)
    # ... and a strategy of arguments for a weight of a rank, if not every choice fits it.
    fitting: Callable | None = None
    needed: tuple[str, ...] = ()  # arguments without a default
    arrays: tuple[str, ...] = ()  # arguments that must broadcast to the weight
    has_prox: bool | Callable = True  # or a function of the arguments
    has_metric_prox: bool = True  # also in a diagonal metric
    shrinks: bool = True  # whether the proximal operator takes no entry farther from 0
    probes: tuple[float, float] = Case.probes
    is_slow: bool = False  # whether tests that take long leave all of its cases to the slow ones

    @property
    def cases(self):
        first, *others = self.examples
        return [self._case(first, is_first=not self.is_slow), *map(self._case, others)]

    def has_prox_with(self, arguments):
        return self.has_prox(arguments) if callable(self.has_prox) else self.has_prox

    def _case(self, arguments, is_first=False):
        has_prox = self.has_prox_with(arguments)
        return Case(
            self.make(FACTOR, **arguments),
            lambda w: FACTOR * self.oracle(w, **arguments),
            min(rank for rank in range(1, 6) if fits(rank, arguments.get("axis"))),
            has_prox,
            has_prox and self.has_metric_prox,
            self.probes,
            is_one_group=arguments.get("axis") == "all",
            is_first=is_first,
        )

    def arguments_at(self, rank):
        """A strategy of arguments that go together, for a weight of `rank`."""
        if self.fitting is not None:
            return self.fitting(rank)
        drawn = {name: st.sampled_from(values) for name, values in self.choices.items()}
        return st.fixed_dictionaries(drawn)


def fits(rank, axis):
    """Whether a weight of that rank has the axes, each of which is there once."""
    if axis is None or isinstance(axis, str):
        return axis != "head"  # which no tensor is known to have
    axes = [axis] if not isinstance(axis, (tuple, list)) else axis
    if not all(isinstance(a, int) for a in axes):  # one for each of several weights
        return False
    return all(-rank <= a < rank for a in axes) and len({a % rank for a in axes}) == len(axes)


BOOLS = [True, False]
AXES = [None, 0, -1, 1, (0, 1), [0, 2], (-1, 3), "output", "input", "shape", "all"]
GROUPS = {
    "axis": AXES,
    "group_size": [None, 1, 3, (2, 3), [2, None]],
    "size_weighted": BOOLS,
}


def axes_of(rank):
    signed = st.integers(0, rank - 1).flatmap(lambda a: st.sampled_from([a, a - rank]))
    several = st.lists(signed, min_size=1, max_size=rank, unique_by=lambda a: a % rank)
    return signed | several.map(tuple)


@st.composite
def groupings(draw, rank, **others):
    """Groups of a weight of `rank`, and one of the values of each of the `others`."""
    axis = draw(st.sampled_from(["output", "input", "shape", "all"]) | axes_of(rank))
    sizes = st.none() | st.integers(1, 6)
    if isinstance(axis, str):
        group_size = None
    elif isinstance(axis, int):
        group_size = draw(sizes)
    else:
        group_size = draw(st.none() | st.tuples(*[sizes] * len(axis)))
    drawn = {name: draw(st.sampled_from(values)) for name, values in others.items()}
    weighted = draw(st.booleans())
    return {"axis": axis, "group_size": group_size, "size_weighted": weighted, **drawn}


@st.composite
def differences(draw, rank):
    if draw(st.booleans()):
        return {"axis": draw(axes_of(rank)), "isotropic": True}
    return {"axis": draw(st.none() | axes_of(rank)), "order": draw(st.integers(1, 2))}


@st.composite
def bounds(draw, rank):
    lower, upper = sorted(draw(st.tuples(st.floats(-2, 2), st.floats(-2, 2))))
    chosen = draw(st.sampled_from([(lower, upper), (lower, None), (None, upper)]))
    return dict(zip(("lower", "upper"), chosen))


def _is_along_one_axis(arguments):
    return arguments.get("order", 1) == 1 and np.size(arguments.get("axis")) == 1


def _prior(name, log_density, examples, **others):
    return Row(
        functools.partial(tfreg.Prior, name),
        functools.partial(oracles.negative_log_density, log_density=log_density),
        examples,
        **others,
    )


def _random_prior(name, log_density):
    return _prior(
        name,
        log_density,
        [{"loc": 0.1, "scale": 0.7}],
        choices={"loc": [0.0, 0.5], "scale": [0.5, 2.0]},
        # Around 0, or its proximal operator would not shrink.
        fitting=lambda rank: st.fixed_dictionaries(
            {"loc": st.just(0.0), "scale": st.floats(1.0, 100.0)}
        ),
        needed=("loc", "scale"),
        arrays=("loc", "scale"),
    )


TABLE = [
    Row(
        tfreg.TotalVariation,
        oracles.total_variation,
        [
            {"axis": (0, -1), "isotropic": True},
            {},
            {"axis": 0},
            {"axis": -1},
            {"axis": (0, 1)},
            {"isotropic": True},
            {"axis": 0, "order": 2},
            {"order": 3},
        ],
        {"axis": AXES, "order": [1, 2, 3], "isotropic": BOOLS},
        differences,
        has_prox=_is_along_one_axis,
        has_metric_prox=False,
        shrinks=False,
    ),
    Row(
        tfreg.BoxPenalty,
        oracles.box,
        [
            {"lower": -0.5, "upper": 0.5},
            {"lower": None, "upper": 0.25},
            {"lower": 0.1, "upper": None},
        ],
        {"lower": [-1.0, 0, None], "upper": [0.0, 0.5, None]},
        bounds,
        shrinks=False,
    ),
    Row(
        tfreg.MCP,
        oracles.mcp,
        [{"threshold": 1.3}],
        {"threshold": [1e-3, 0.5, 3]},
        probes=(0.9, -1.1),
    ),
    Row(
        tfreg.SCAD,
        oracles.scad,
        [{"knee": 0.4, "threshold": 1.7}],
        {"knee": [0.01, 0.5, 1], "threshold": [1.1, 20]},
        probes=(0.9, -1.1),
        is_slow=True,
    ),
    Row(
        tfreg.Quadratic,
        oracles.quadratic,
        [{"center": [-0.5], "precision": [0.7]}, {"center": 0.1, "precision": 2.0}],
        {"center": [0.0, -0.5, 2, [1.0], [[0.5]]], "precision": [0, 0.5, 2.0, [3.0]]},
        lambda rank: st.fixed_dictionaries(
            {
                "center": st.sampled_from([0.0, 0.5, [-1.0]]),
                "precision": st.sampled_from([0.0, 0.3, [2.0]]),
            }
        ),
        arrays=("center", "precision"),
        shrinks=False,
    ),
    Row(
        tfreg.GroupLasso,
        oracles.group_lasso,
        [
            {"axis": (-1, 0), "group_size": (None, 2), "size_weighted": False},
            {"axis": "output"},
            {"axis": "input"},
            {"axis": "shape", "size_weighted": False},
            {"axis": "all"},
            {"axis": 0, "group_size": 3, "size_weighted": False},
            {"axis": -1, "group_size": 2},
            {"axis": (0, 1), "group_size": (2, 3)},
            {"axis": (0, 2)},
            {"axis": (0, 1, 2, 3, 4), "group_size": (2, 2, 2, 2, 2)},
        ],
        GROUPS,
        groupings,
    ),
    Row(
        tfreg.SparseGroupLasso,
        oracles.sparse_group_lasso,
        [
            {"l1_ratio": 0.3, "axis": "input"},
            {"l1_ratio": 0.3, "axis": "output"},
            {"l1_ratio": 0.0, "axis": 0, "group_size": 4},
            {"l1_ratio": 1.0, "axis": "input"},
        ],
        {"l1_ratio": [0.0, 0.3, 1], **GROUPS},
        functools.partial(groupings, l1_ratio=[0.0, 0.3, 1.0]),
    ),
    Row(
        tfreg.GroupMCP,
        oracles.group_mcp,
        [
            {"threshold": 2.5, "axis": 0, "group_size": 2, "size_weighted": False},
            {"threshold": 1.1, "axis": "output"},
            {"threshold": 1.7, "axis": (0, 1), "group_size": (2, 3)},
        ],
        {"threshold": [1e-3, 0.5, 3], **GROUPS},
        functools.partial(groupings, threshold=[1e-3, 0.5, 20.0]),
        has_metric_prox=False,
        probes=(0.1, -0.2),
    ),
    _random_prior("Normal", oracles.log_normal),
    _random_prior("Laplace", oracles.log_laplace),
    _prior(
        "GeneralizedNormal",
        oracles.log_generalized_normal,
        [{"loc": 0.0, "scale": 0.7, "power": 0.5}],
        has_prox=False,
    ),
    _prior(
        "MixtureSameFamily",
        oracles.log_spike_and_slab,
        [
            {
                "mixture_distribution": {"distribution": "Categorical", "probs": [0.75, 0.25]},
                "components_distribution": {
                    "distribution": "Normal",
                    "loc": 0.0,
                    "scale": [0.1, 1.5],
                },
            }
        ],
        has_prox=False,
        is_slow=True,
    ),
]
SUM = Case(
    tfreg.TotalVariation(0.3, axis=0) + tfreg.GroupLasso(0.2) + tfreg.BoxPenalty(0.1),
    lambda w: 0.3 * oracles.total_variation(w, axis=0)
    + 0.2 * oracles.group_lasso(w, "output")
    + 0.1 * oracles.box(w, -1.0, 1.0),
    has_prox=False,
    has_metric_prox=False,
    is_first=True,
)
CASES = [*(case for row in TABLE for case in row.cases), SUM]


@keras.saving.register_keras_serializable("tests")
def product_of_norms(weights):
    return tf.reduce_prod([tf.norm(w) for w in weights])


@dataclasses.dataclass(frozen=True)
class JointCase:
    penalty: tfreg.Joint
    oracle: Callable  # of a list of NumPy weights, strength included
    shapes: list
    has_prox: bool = True

    def __str__(self):
        return repr(self.penalty).replace("size_weighted", "sw").replace("group_size", "gs")


def _joint_group_lasso(shapes, axes, **arguments):
    axis = axes[0] if len(set(map(str, axes))) == 1 else axes
    return JointCase(
        tfreg.Joint(tfreg.GroupLasso(0.2, axis=axis, **arguments)),
        lambda weights: 0.2 * oracles.joint_group_lasso(weights, axes, **arguments),
        shapes,
    )


def _joint_sparse_group_lasso(shapes, l1_ratio, axes):
    return JointCase(
        tfreg.Joint(tfreg.SparseGroupLasso(0.2, l1_ratio, axis=axes)),
        lambda weights: 0.2 * oracles.joint_sparse_group_lasso(weights, l1_ratio, axes),
        shapes,
    )


def _joint_group_mcp(shapes, threshold, axes, **arguments):
    return JointCase(
        tfreg.Joint(tfreg.GroupMCP(0.2, threshold, axis=axes, **arguments)),
        lambda weights: 0.2 * oracles.joint_group_mcp(weights, threshold, axes, **arguments),
        shapes,
    )


def _joint_total_variation(shapes, order=1):
    return JointCase(
        tfreg.Joint(tfreg.TotalVariation(0.3, order=order)),
        lambda weights: 0.3 * oracles.joint_total_variation(weights, order),
        shapes,
        has_prox=order == 1,
    )


# A filter of a convolution, its scale, and the next layer's input channel.
_TIED = [(3, 3, 2, 4), (4,), (3, 3, 4, 5)]
JOINT_CASES = [
    _joint_group_lasso([(5, 4), (3, 4), (4,)], ["output"] * 3),
    _joint_group_lasso(_TIED, ["output", "output", "input"]),
    _joint_group_lasso(_TIED, ["output", "input", (0, 1, 3)], size_weighted=False),
    _joint_group_lasso([(5, 4), (2, 3)], ["all", "all"]),
    _joint_group_lasso([(5, 4), (5, 4)], [0, 0], group_size=2),
    _joint_group_lasso([(7, 4), (5, 4)], [0, (0,)], group_size=4),
    _joint_sparse_group_lasso([(5, 4), (4, 3)], 0.3, ["output", "input"]),
    _joint_sparse_group_lasso(_TIED, 0.3, ["output", "output", "input"]),
    _joint_sparse_group_lasso([(5, 4), (4, 3)], 1.0, ["output", "input"]),
    _joint_sparse_group_lasso([(5, 4), (4, 3)], 0.0, ["output", "input"]),
    _joint_group_mcp([(5, 4), (5, 4)], 2.5, [0, (0,)], group_size=2, size_weighted=False),
    _joint_group_mcp(_TIED, 1.1, ["output", "output", "input"]),
    _joint_total_variation([(3, 4)] * 5),
    _joint_total_variation([(6,)] * 4, order=2),
    JointCase(
        tfreg.Joint(tfreg.TotalVariation(0.3) + tfreg.GroupLasso(0.2)),
        lambda weights: 0.3 * oracles.joint_total_variation(weights)
        + 0.2 * oracles.joint_group_lasso(weights, ["output"] * len(weights)),
        [(3, 4)] * 3,
        has_prox=False,
    ),
    JointCase(
        tfreg.Joint(product_of_norms),
        lambda weights: np.prod([np.linalg.norm(w) for w in weights]),
        [(3, 4), (2,)],
        has_prox=False,
    ),
]


def _first_of_each_row(rows_of_cases):
    """The cases of all rows, the first of each row among those of every run."""
    return [
        dataclasses.replace(case, is_first=case.is_first or (place == 0 and not row.is_slow))
        for row, cases in rows_of_cases
        for place, case in enumerate(cases)
    ]


PROXIMAL = _first_of_each_row((row, [case for case in row.cases if case.has_prox]) for row in TABLE)
METRIC = [case for case in PROXIMAL if case.has_metric_prox]

SHAPES = [(7,), (5, 4), (3, 4, 5), (2, 3, 4, 3), (2, 3, 2, 3, 2)]


def applicable(cases, shapes):
    return [(case, shape) for case in cases for shape in shapes if len(shape) >= case.min_rank]


def others_slow(cases):
    """`cases`, or tuples that begin with one: only the first of each row is in every run."""
    return [case if _is_first(case) else slow(*_as_tuple(case)) for case in cases]


def _is_first(case):
    return _as_tuple(case)[0].is_first


def _as_tuple(case):
    return case if isinstance(case, tuple) else (case,)


def first_of_each_penalty(joint_cases):
    """`joint_cases`, of which the first of each of tfreg's penalties is in every run."""
    first: dict = {}
    for case in joint_cases:
        if isinstance(case.penalty.penalty, tfreg.Penalty):
            first.setdefault(type(case.penalty.penalty), case)
    return [case if case in first.values() else slow(case) for case in joint_cases]


def weight(shape, dtype="float64", seed=0):
    """A random weight no entry of which is near a kink of any case."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def away_from_zero(w):
    """`w` with its entries moved from 0, where slopes like that of a root multiply rounding."""
    return np.where(w < 0.0, w - 0.2, w + 0.2)


def value_and_gradient(penalty, w):
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = penalty(w)
    return value, tape.gradient(value, w)


def values_and_gradients(penalty, weights):
    return [value_and_gradient(penalty, w) for w in weights]


def hessian_times(penalty, w, direction):
    """The slope of the gradient at `w` along `direction`."""
    with tf.GradientTape() as tape:
        tape.watch(w)
        slope = tf.reduce_sum(gradient(penalty, w) * direction)
    return tape.gradient(slope, w)


def gradient(penalty, w):
    return value_and_gradient(penalty, w)[1]
