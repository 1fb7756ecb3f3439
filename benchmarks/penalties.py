"""The penalties that are measured, with what they are compared to and what they must compute.

The references are NumPy's, of unit strength: a value and a gradient, and a proximal operator. They
are vectorized, for large weights; a test compares them to the loops of tests/oracles.py.
"""

import contextlib
import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import tfreg

FACTOR, STEP_SIZE = 0.01, 10.0
STRENGTH = FACTOR * STEP_SIZE
L2_NAME = "keras L2"
# With these the densities are 1 at 0, and the priors Keras's own L2 and L1.
NORMAL_SCALE, LAPLACE_SCALE = 1.0 / math.sqrt(2.0 * math.pi), 0.5


class Case(NamedTuple):
    """A penalty and its proximal operator, if it has one, in TensorFlow forms and in NumPy."""

    name: str
    forms: dict[str, Callable]
    reference: Callable
    prox_forms: dict[str, Callable]
    prox_reference: Callable | None


def keras_l2(w, scale):
    return keras.regularizers.L2(FACTOR * scale)(w)


def l2_prox_by_hand(w, scale=1.0):
    return w / (1.0 + 2.0 * STRENGTH * scale)


def l2_reference(w, scale=1.0):
    return scale * np.square(w).sum(), 2.0 * scale * w


def l2_prox_reference(w, strength, scale=1.0):
    return w / (1.0 + 2.0 * strength * scale)


def keras_l1(w, scale):
    return keras.regularizers.L1(FACTOR * scale)(w)


def l1_prox_by_hand(w, scale=1.0):
    return tf.sign(w) * tf.maximum(tf.abs(w) - STRENGTH * scale, 0.0)


def l1_reference(w, scale=1.0):
    return scale * np.abs(w).sum(), scale * np.sign(w)


def l1_prox_reference(w, strength, scale=1.0):
    return np.sign(w) * np.maximum(np.abs(w) - strength * scale, 0.0)


def tv_by_hand(w, axis):
    w = tf.reshape(w, [-1]) if axis is None else w
    difference = w[..., 1:] - w[..., :-1] if axis == -1 else w[1:] - w[:-1]
    return FACTOR * tf.reduce_sum(tf.abs(difference))


def tv_reference(w, axis):
    if axis is None:
        value, gradient = tv_reference(w.ravel(), axis=0)
        return value, gradient.reshape(w.shape)
    difference = np.diff(w, axis=axis)
    gradient = -np.diff(np.sign(difference), axis=axis, prepend=0.0, append=0.0)
    return np.abs(difference).sum(), gradient


def box_by_hand(w):
    return FACTOR * tf.reduce_sum(tf.square(w - tf.clip_by_value(w, -0.5, 0.5)))


def box_prox_by_hand(w):
    inside = tf.clip_by_value(w, -0.5, 0.5)
    return inside + (w - inside) / (1.0 + 2.0 * STRENGTH)


def box_reference(w, bound=0.5):
    violation = w - np.clip(w, -bound, bound)
    return np.square(violation).sum(), 2.0 * violation


def box_prox_reference(w, strength):
    inside = np.clip(w, -0.5, 0.5)
    return inside + (w - inside) / (1.0 + 2.0 * strength)


def mcp_by_hand(w, threshold):
    t = tf.minimum(tf.abs(w), threshold)
    return FACTOR * tf.reduce_sum(t - tf.square(t) / (2.0 * threshold))


def mcp_prox_by_hand(w, threshold):
    t = tf.abs(w)
    firm = tf.sign(w) * tf.maximum(t - STRENGTH, 0.0) / (1.0 - STRENGTH / threshold)
    return tf.where(t > threshold, w, firm)


def mcp_reference(w, threshold):
    t = np.minimum(np.abs(w), threshold)
    return (t - np.square(t) / (2.0 * threshold)).sum(), np.sign(w) * (1.0 - t / threshold)


def mcp_prox_reference(w, strength, threshold):
    firm = np.sign(w) * np.maximum(np.abs(w) - strength, 0.0) / (1.0 - strength / threshold)
    return np.where(np.abs(w) > threshold, w, firm)


def scad_by_hand(w, knee, threshold):
    t = tf.abs(w)
    between = knee + (tf.square(threshold - knee) - tf.square(threshold - t)) / (
        2.0 * (threshold - knee)
    )
    beyond = 0.5 * (knee + threshold)
    each = tf.where(t <= knee, t, tf.where(t <= threshold, between, beyond))
    return FACTOR * tf.reduce_sum(each)


def scad_prox_by_hand(w, knee, threshold):
    t, width = tf.abs(w), threshold - knee
    soft = tf.sign(w) * tf.maximum(t - STRENGTH, 0.0)
    between = (width * w - tf.sign(w) * STRENGTH * threshold) / (width - STRENGTH)
    return tf.where(t <= knee + STRENGTH, soft, tf.where(t <= threshold, between, w))


def scad_reference(w, knee, threshold):
    slope = np.clip((threshold - np.abs(w)) / (threshold - knee), 0.0, 1.0)
    flat = np.minimum(np.abs(w), knee)
    value = (flat + 0.5 * (threshold - knee) * (1.0 - np.square(slope))).sum()
    return value, np.sign(w) * slope


def scad_prox_reference(w, strength, knee, threshold):
    t, width = np.abs(w), threshold - knee
    soft = l1_prox_reference(w, strength)
    between = (width * w - np.sign(w) * strength * threshold) / (width - strength)
    return np.where(t <= knee + strength, soft, np.where(t <= threshold, between, w))


def quadratic_by_hand(w, center, precision):
    return 0.5 * FACTOR * tf.reduce_sum(precision * tf.square(w - center))


def quadratic_prox_by_hand(w, center, precision):
    return (w + STRENGTH * precision * center) / (1.0 + STRENGTH * precision)


def quadratic_reference(w, center, precision):
    return 0.5 * (precision * np.square(w - center)).sum(), precision * (w - center)


def quadratic_prox_reference(w, strength, center, precision):
    return (w + strength * precision * center) / (1.0 + strength * precision)


def _cut(w, sizes):
    """`w` with an axis more for each that `sizes`, by axis, cuts in runs, and the axes of a run."""
    shape: list[int] = []
    spanned = []
    for axis, length in enumerate(w.shape):
        size = sizes.get(axis, length)
        shape += [size] if size == length else [length // size, size]
        if axis in sizes:
            spanned.append(len(shape) - 1)
    return tf.reshape(w, shape), spanned


def groups_by_hand(w, sizes, size_weighted):
    groups, spanned = _cut(w, sizes)
    weight = math.sqrt(math.prod(sizes.values())) if size_weighted else 1.0
    return FACTOR * weight * tf.reduce_sum(tf.sqrt(tf.reduce_sum(tf.square(groups), axis=spanned)))


def groups_prox_by_hand(w, sizes, size_weighted, share=1.0):
    groups, spanned = _cut(w, sizes)
    weight = math.sqrt(math.prod(sizes.values())) if size_weighted else 1.0
    norms = tf.sqrt(tf.reduce_sum(tf.square(groups), axis=spanned, keepdims=True))
    shrunk = tf.maximum(1.0 - share * STRENGTH * weight / norms, 0.0) * groups
    return tf.reshape(shrunk, w.shape)


def _sum_of_groups(x, sizes):
    for axis, size in sizes.items():
        x = np.add.reduceat(x, range(0, x.shape[axis], size), axis=axis)
    return x


def _spread(x, shape, sizes):
    for axis, size in sizes.items():
        of_runs = np.arange(shape[axis]) // size
        x = x.take(of_runs, axis=axis)
    return x


def _norms_and_weights(w, sizes, size_weighted):
    norms = np.sqrt(_sum_of_groups(np.square(w), sizes))
    if not size_weighted:
        return norms, np.ones_like(norms)
    return norms, np.sqrt(_sum_of_groups(np.ones_like(w), sizes))


def groups_reference(w, sizes, size_weighted):
    norms, weights = _norms_and_weights(w, sizes, size_weighted)
    return (weights * norms).sum(), _spread(weights / norms, w.shape, sizes) * w


def groups_prox_reference(w, strength, sizes, size_weighted):
    norms, weights = _norms_and_weights(w, sizes, size_weighted)
    return _spread(np.maximum(1.0 - strength * weights / norms, 0.0), w.shape, sizes) * w


def group_mcp_by_hand(w, sizes, threshold):
    groups, spanned = _cut(w, sizes)
    size = math.prod(sizes.values())
    means = tf.sqrt(tf.reduce_mean(tf.square(groups), axis=spanned))
    return size * mcp_by_hand(means, threshold)


def group_mcp_prox_by_hand(w, sizes, threshold):
    groups, spanned = _cut(w, sizes)
    means = tf.sqrt(tf.reduce_mean(tf.square(groups), axis=spanned, keepdims=True))
    return tf.reshape(mcp_prox_by_hand(means, threshold) / means * groups, w.shape)


def group_mcp_reference(w, sizes, threshold):
    norms, roots = _norms_and_weights(w, sizes, size_weighted=True)
    counts = np.square(roots)
    t = np.minimum(norms / roots, threshold)
    slopes = roots * (1.0 - t / threshold) / norms
    value = (counts * (t - np.square(t) / (2.0 * threshold))).sum()
    return value, _spread(slopes, w.shape, sizes) * w


def group_mcp_prox_reference(w, strength, sizes, threshold):
    norms, roots = _norms_and_weights(w, sizes, size_weighted=True)
    means = norms / roots
    kept = mcp_prox_reference(means, strength, threshold) / means
    return _spread(kept, w.shape, sizes) * w


def sparse_by_hand(w, sizes, size_weighted):
    groups = groups_by_hand(w, sizes, size_weighted)
    return 0.5 * FACTOR * tf.reduce_sum(tf.abs(w)) + 0.5 * groups


def sparse_prox_by_hand(w, sizes, size_weighted):
    return groups_prox_by_hand(l1_prox_by_hand(w, 0.5), sizes, size_weighted, share=0.5)


def sparse_reference(w, sizes, size_weighted):
    value, gradient = groups_reference(w, sizes, size_weighted)
    return 0.5 * np.abs(w).sum() + 0.5 * value, 0.5 * np.sign(w) + 0.5 * gradient


def sparse_prox_reference(w, strength, sizes, size_weighted):
    sparse = l1_prox_reference(w, strength, 0.5)
    return groups_prox_reference(sparse, 0.5 * strength, sizes, size_weighted)


def _case(name, penalty, by_hand, reference, prox_by_hand=None, prox_reference=None, **parameters):
    def given(function):
        return functools.partial(function, **parameters)

    forms = {"tfreg": penalty, "by hand": given(by_hand)}
    if prox_by_hand is None:
        return Case(name, forms, given(reference), {}, None)
    prox_forms = {
        "tfreg": functools.partial(penalty.prox, step_size=STEP_SIZE),
        "by hand": given(prox_by_hand),
    }
    return Case(name, forms, given(reference), prox_forms, given(prox_reference))


def _l2_case():
    forms = {"Keras": keras.regularizers.L2(FACTOR)}
    return Case(L2_NAME, forms, l2_reference, {"Keras": l2_prox_by_hand}, l2_prox_reference)


def _tv_cases():
    for axis in (None, 0, -1):
        penalty = tfreg.TotalVariation(FACTOR, axis=axis)
        yield _case(f"TotalVariation axis={axis}", penalty, tv_by_hand, tv_reference, axis=axis)


def _box_case():
    penalty = tfreg.BoxPenalty(FACTOR, -0.5, 0.5)
    proxes = box_prox_by_hand, box_prox_reference
    return _case("BoxPenalty", penalty, box_by_hand, box_reference, *proxes)


def _mcp_case():
    penalty, parameters = tfreg.MCP(FACTOR, threshold=0.8), {"threshold": 0.8}
    proxes = mcp_prox_by_hand, mcp_prox_reference
    return _case("MCP", penalty, mcp_by_hand, mcp_reference, *proxes, **parameters)


def _scad_case():
    parameters = {"knee": 0.4, "threshold": 1.2}
    penalty = tfreg.SCAD(FACTOR, **parameters)
    proxes = scad_prox_by_hand, scad_prox_reference
    return _case("SCAD", penalty, scad_by_hand, scad_reference, *proxes, **parameters)


def _quadratic_case():
    parameters = {"center": 0.1, "precision": 2.0}
    penalty = tfreg.Quadratic(FACTOR, **parameters)
    proxes = quadratic_prox_by_hand, quadratic_prox_reference
    return _case(
        "Quadratic", penalty, quadratic_by_hand, quadratic_reference, *proxes, **parameters
    )


def _group_mcp_case(shape):
    threshold = 0.5  # about the root mean square of a group
    return _case(
        "GroupMCP",
        tfreg.GroupMCP(FACTOR, threshold),
        group_mcp_by_hand,
        group_mcp_reference,
        group_mcp_prox_by_hand,
        group_mcp_prox_reference,
        sizes=dict(enumerate(shape[:-1])),
        threshold=threshold,
    )


def group_lasso_case(name, shape, sizes, **arguments):
    """The GroupLasso of `arguments`, whose groups are runs of `sizes`, by axis, on `shape`."""
    penalty = tfreg.GroupLasso(FACTOR, **arguments)
    case = _case(
        f"GroupLasso {name}",
        penalty,
        groups_by_hand,
        groups_reference,
        groups_prox_by_hand,
        groups_prox_reference,
        sizes=sizes,
        size_weighted=penalty.size_weighted,
    )
    if any(shape[axis] % size for axis, size in sizes.items()):
        del case.forms["by hand"], case.prox_forms["by hand"]
    return case


def _group_lasso_cases(shape):
    whole = dict(enumerate(shape))
    row, column = len(shape) - 2, len(shape) - 1
    spanned = {
        "output": {axis: whole[axis] for axis in whole if axis != column},
        "input": {axis: whole[axis] for axis in whole if axis != row},
        "shape": {column: whole[column]},
        "all": whole,
    }
    for name, sizes in spanned.items():
        yield group_lasso_case(name, shape, sizes, axis=name)
    for size in (4, 5):
        run = {"axis": -2, "group_size": size, "size_weighted": False}
        yield group_lasso_case(f"group_size={size}", shape, {row: size}, **run)
    for size in (16, 7):
        block = {"axis": (-2, -1), "group_size": (size, size)}
        yield group_lasso_case(f"{size}x{size}", shape, {row: size, column: size}, **block)


def _sparse_case(shape):
    return _case(
        "SparseGroupLasso",
        tfreg.SparseGroupLasso(FACTOR),
        sparse_by_hand,
        sparse_reference,
        sparse_prox_by_hand,
        sparse_prox_reference,
        sizes=dict(enumerate(shape[:-1])),
        size_weighted=True,
    )


def _prior_cases():
    yield _case(
        "Prior Normal",
        tfreg.Prior("Normal", FACTOR, loc=0.0, scale=NORMAL_SCALE),
        keras_l2,
        l2_reference,
        l2_prox_by_hand,
        l2_prox_reference,
        scale=0.5 / NORMAL_SCALE**2,
    )
    yield _case(
        "Prior Laplace",
        tfreg.Prior("Laplace", FACTOR, loc=0.0, scale=LAPLACE_SCALE),
        keras_l1,
        l1_reference,
        l1_prox_by_hand,
        l1_prox_reference,
        scale=1.0 / LAPLACE_SCALE,
    )


def _own_reference(penalty):
    """The value and gradient of unit strength as `penalty` itself gives them, not compiled."""

    def reference(w):
        weight = tf.constant(w)
        with _plain_graphs(), tf.GradientTape() as tape:
            tape.watch(weight)
            value = penalty(weight) / penalty.factor
        return value.numpy(), tape.gradient(value, weight).numpy()

    return reference


def _own_prox_reference(penalty):
    def reference(w, strength):
        with _plain_graphs():
            return penalty.prox(tf.constant(w), strength / penalty.factor).numpy()

    return reference


@contextlib.contextmanager
def _plain_graphs():
    tfreg.kernels.set_jit(False)
    try:
        yield
    finally:
        tfreg.kernels.set_jit("auto")


def _has_prox(penalty):
    try:
        penalty.prox(tf.ones([2, 2]), STEP_SIZE)
    except NotImplementedError:
        return False
    return True


def _penalties_of_one_weight():
    classes = {getattr(tfreg, name) for name in tfreg.penalties.__all__ if name[0].isupper()}
    return classes - {tfreg.Penalty, tfreg.Elementwise, tfreg.Sum, tfreg.Joint}


def _cases_without_form_by_hand(cases_by_hand):
    """The public penalties that `cases_by_hand` lack, with their default arguments.

    Their reference is the penalty itself in float64, which the tests compare to loops.
    """
    by_hand = {type(case.forms.get("tfreg")) for case in cases_by_hand}
    for cls in sorted(_penalties_of_one_weight() - by_hand, key=str):
        penalty = cls(FACTOR)
        case = Case(cls.__name__, {"tfreg": penalty}, _own_reference(penalty), {}, None)
        if _has_prox(penalty):
            operator = functools.partial(penalty.prox, step_size=STEP_SIZE)
            reference = _own_prox_reference(penalty)
            case = case._replace(prox_forms={"tfreg": operator}, prox_reference=reference)
        yield case


EVERY = re.compile("")


def cases(shape, pattern=EVERY):
    """Keras's L2, and the penalties on weights of `shape` in whose name `pattern` is found."""
    yield _l2_case()
    by_hand = [
        *_tv_cases(),
        _box_case(),
        _mcp_case(),
        _scad_case(),
        _quadratic_case(),
        *_group_lasso_cases(shape),
        _sparse_case(shape),
        _group_mcp_case(shape),
        *_prior_cases(),
    ]
    every = [*by_hand, *_cases_without_form_by_hand(by_hand)]
    yield from (case for case in every if pattern.search(case.name))
