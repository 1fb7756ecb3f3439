"""The table of cases that drives every penalty through the common tests."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import oracles
import tensorflow as tf

import tfreg


@dataclasses.dataclass(frozen=True)
class Case:
    penalty: tfreg.penalties.Penalty
    oracle: Callable  # of a NumPy weight, strength included
    min_rank: int = 1
    has_prox: bool = True
    # Two values of a weight at which the slope differs, also in what shares a term with it.
    probes: tuple[float, float] = (100.0, -200.0)

    def __str__(self):
        return repr(self.penalty).replace("size_weighted", "sw").replace("group_size", "gs")


def _total_variation(factor, min_rank=1, **arguments):
    return Case(
        tfreg.TotalVariation(factor, **arguments),
        lambda w: factor * oracles.total_variation(w, **arguments),
        min_rank,
        has_prox=False,
    )


def _box(factor, **arguments):
    return Case(
        tfreg.BoxPenalty(factor, **arguments), lambda w: factor * oracles.box(w, **arguments)
    )


def _concave(penalty_class, oracle, factor, **arguments):
    return Case(
        penalty_class(factor, **arguments),
        lambda w: factor * oracle(w, **arguments),
        probes=(0.9, -1.1),
    )


def _quadratic(factor, center, precision):
    return Case(
        tfreg.Quadratic(factor, center, precision),
        lambda w: factor * oracles.quadratic(w, center, precision),
    )


def _group_lasso(factor, min_rank=1, **arguments):
    return Case(
        tfreg.GroupLasso(factor, **arguments),
        lambda w: factor * oracles.group_lasso(w, **arguments),
        min_rank,
    )


def _group_mcp(factor, min_rank=1, **arguments):
    return Case(
        tfreg.GroupMCP(factor, **arguments),
        lambda w: factor * oracles.group_mcp(w, **arguments),
        min_rank,
        probes=(0.1, -0.2),
    )


def _sparse_group_lasso(factor, min_rank=1, **arguments):
    return Case(
        tfreg.SparseGroupLasso(factor, **arguments),
        lambda w: factor * oracles.sparse_group_lasso(w, **arguments),
        min_rank,
    )


def _prior(name, log_density, has_prox=True, **parameters):
    return Case(
        tfreg.Prior(name, 0.2, **parameters),
        lambda w: 0.2 * oracles.negative_log_density(w, log_density, **parameters),
        has_prox=has_prox,
    )


_SPIKE_AND_SLAB = {
    "mixture_distribution": {"distribution": "Categorical", "probs": [0.75, 0.25]},
    "components_distribution": {"distribution": "Normal", "loc": 0.0, "scale": [0.1, 1.5]},
}

CASES = [
    _total_variation(0.3),
    _total_variation(0.3, axis=0),
    _total_variation(0.3, axis=-1),
    _total_variation(0.3, axis=(0, 1), min_rank=2),
    _total_variation(0.3, axis=(0, -1), isotropic=True, min_rank=2),
    _total_variation(0.3, isotropic=True),
    _total_variation(0.3, axis=0, order=2),
    _total_variation(0.3, order=3),
    _box(0.7, lower=-0.5, upper=0.5),
    _box(0.7, lower=None, upper=0.25),
    _box(0.7, lower=0.1, upper=None),
    _concave(tfreg.MCP, oracles.mcp, 0.3, threshold=1.3),
    _concave(tfreg.SCAD, oracles.scad, 0.3, knee=0.4, threshold=1.7),
    _quadratic(0.3, center=0.1, precision=2.0),
    _quadratic(0.3, center=[-0.5], precision=[0.7]),
    _group_lasso(0.2, axis="output"),
    _group_lasso(0.2, axis="input"),
    _group_lasso(0.2, axis="shape", size_weighted=False),
    _group_lasso(0.2, axis="all"),
    _group_lasso(0.2, axis=0, group_size=3, size_weighted=False),
    _group_lasso(0.2, axis=-1, group_size=2),
    _group_lasso(0.2, axis=(0, 1), group_size=(2, 3), min_rank=2),
    _group_lasso(0.2, axis=(-1, 0), group_size=(None, 2), min_rank=2),
    _group_lasso(0.2, axis=(0, 2), min_rank=3),
    _group_lasso(0.2, axis=(0, 1, 2, 3, 4), group_size=(2, 2, 2, 2, 2), min_rank=5),
    _sparse_group_lasso(0.2, l1_ratio=0.3, axis="output"),
    _sparse_group_lasso(0.2, l1_ratio=0.0, axis=0, group_size=4),
    _sparse_group_lasso(0.2, l1_ratio=1.0, axis="input"),
    _group_mcp(0.2, threshold=1.1, axis="output"),
    _group_mcp(0.2, threshold=2.5, axis=0, group_size=2, size_weighted=False),
    _group_mcp(0.2, threshold=1.7, axis=(0, 1), group_size=(2, 3), min_rank=2),
    _prior("Normal", oracles.log_normal, loc=0.1, scale=0.7),
    _prior("Laplace", oracles.log_laplace, loc=0.1, scale=0.7),
    _prior(
        "GeneralizedNormal",
        oracles.log_generalized_normal,
        has_prox=False,
        loc=0.0,
        scale=0.7,
        power=0.5,
    ),
    Case(
        tfreg.Prior("MixtureSameFamily", 0.2, **_SPIKE_AND_SLAB),
        lambda w: 0.2
        * oracles.negative_log_density(
            w, oracles.log_spike_and_slab, share=0.75, spike=0.1, slab=1.5
        ),
        has_prox=False,
    ),
    Case(
        tfreg.TotalVariation(0.3, axis=0) + tfreg.GroupLasso(0.2) + tfreg.BoxPenalty(0.1),
        lambda w: 0.3 * oracles.total_variation(w, axis=0)
        + 0.2 * oracles.group_lasso(w, "output")
        + 0.1 * oracles.box(w, -1.0, 1.0),
        has_prox=False,
    ),
]


@keras.saving.register_keras_serializable("tests")
def product_of_norms(weights):
    return tf.reduce_prod([tf.norm(w) for w in weights])


@dataclasses.dataclass(frozen=True)
class JointCase:
    penalty: tfreg.Joint
    oracle: Callable  # of a list of NumPy weights, strength included
    shapes: list

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


def _joint_total_variation(shapes, order=1):
    return JointCase(
        tfreg.Joint(tfreg.TotalVariation(0.3, order=order)),
        lambda weights: 0.3 * oracles.joint_total_variation(weights, order),
        shapes,
    )


# A filter of a convolution, its scale, and the next layer's input channel.
_TIED = [(3, 3, 2, 4), (4,), (3, 3, 4, 5)]
JOINT_CASES = [
    _joint_group_lasso(_TIED, ["output", "output", "input"]),
    _joint_group_lasso(_TIED, ["output", "input", (0, 1, 3)], size_weighted=False),
    _joint_group_lasso([(5, 4), (3, 4), (4,)], ["output"] * 3),
    _joint_group_lasso([(5, 4), (2, 3)], ["all", "all"]),
    _joint_group_lasso([(5, 4), (5, 4)], [0, 0], group_size=2),
    _joint_group_lasso([(7, 4), (5, 4)], [0, (0,)], group_size=4),
    _joint_sparse_group_lasso(_TIED, 0.3, ["output", "output", "input"]),
    _joint_sparse_group_lasso([(5, 4), (4, 3)], 1.0, ["output", "input"]),
    _joint_sparse_group_lasso([(5, 4), (4, 3)], 0.0, ["output", "input"]),
    _joint_total_variation([(3, 4)] * 5),
    _joint_total_variation([(6,)] * 4, order=2),
    JointCase(
        tfreg.Joint(tfreg.TotalVariation(0.3) + tfreg.GroupLasso(0.2)),
        lambda weights: 0.3 * oracles.joint_total_variation(weights)
        + 0.2 * oracles.joint_group_lasso(weights, ["output"] * len(weights)),
        [(3, 4)] * 3,
    ),
    JointCase(
        tfreg.Joint(product_of_norms),
        lambda weights: np.prod([np.linalg.norm(w) for w in weights]),
        [(3, 4), (2,)],
    ),
]
PROXIMAL = [case for case in CASES if case.has_prox]

SHAPES = [(7,), (5, 4), (3, 4, 5), (2, 3, 4, 3), (2, 3, 2, 3, 2)]


def applicable(cases, shapes):
    return [(case, shape) for case in cases for shape in shapes if len(shape) >= case.min_rank]


def weight(shape, dtype="float64", seed=0):
    """A random weight no entry of which is near a kink of any case."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


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
