"""Couple: which slices of which weights of a model live and die together."""

import numpy as np

from tfreg import backend
from tfreg.inventory import Member, Model
from tfreg.model.contents import Contents
from tfreg.structure.coupling import Cost, Coupling, Couplings, Fixed, Use
from tfreg.structure.rules import Rules, elementwise_functions, rule_finder
from tfreg.structure.tracing import Trace


def couple(model: Model, rules: Rules | None = None) -> Couplings:
    """Finds the slices of a model's weights that live and die together.

    Unit k of a layer goes with its bias, its normalization, and what every later layer makes of
    it; over a residual connection, with the k-th units of all layers whose outputs are added. Each
    such set is an entry, and entries with slices of the same weights form a `Coupling`. Penalized
    as one group, an entry reaches zero as a whole, and `tfreg.compact` cuts it out:

    `factor * sum_k sqrt(size_k) * sqrt(sum_i ||w_ik||^2)`

    Args:
        model: a built model of either Keras: Functional or Sequential, with nested models; or a
            subclassed one whose `call` Keras can trace.
        rules: how to follow layers of your own: a dict from a layer class, or the function of an
            activation, to

            - `"elementwise"`: a function of each channel apart, with weights that broadcast from
              the right, such as a scale
            - `"dense"`: reads the last axis and yields one, with the axes of its weights as
              registered with `tfreg.layers.register`
            - `"fixed"`: what it reads and yields stays.

            What has no rule is fixed: it is never guessed.

    Returns:
        `Couplings`: a sequence of `Coupling`, with `fixed`, what is not free and why.

    Raises:
        TypeError, ValueError: for other arguments; for a model that is not built, or a subclassed
            one that cannot be traced.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
    >>> model.add(keras.layers.Dense(2, name="last"))
    >>> couplings = tfreg.couple(model)
    >>> [coupling] = couplings
    >>> coupling.size, coupling.paths
    (4, ['hidden/kernel', 'hidden/bias', 'last/kernel'])
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(1e-3), weights=couplings)

    References:
        Fang et al., DepGraph: Towards any structural pruning, 2023.
        Gordon et al., MorphNet: Fast & simple resource-constrained structure learning, 2018.
    """
    trace, _ = traced(model, rules)
    return couplings_of(model, trace)


def traced(model: Model, rules: Rules | None) -> tuple[Trace, Model]:
    """The trace of `model`, and the model that has its graph: for a subclassed one another.

    Raises:
        TypeError, ValueError: if there is no graph to follow.
    """
    if not backend.is_model(model):
        raise TypeError(
            f"Argument `model` must be a model of Keras 3 or tf_keras. Received: model={model!r}"
        )
    rule_for = rule_finder(rules)
    if not model.built:
        raise ValueError(
            f"Argument `model` must be built: call it on a batch, or give it an Input. "
            f"Received: the model {model.name!r}"
        )
    followed = model if backend.graph_of(model) else backend.functional_of(model)
    return Trace(followed, rule_for, elementwise_functions(rules)), followed


def couplings_of(model: Model, trace: Trace) -> Couplings:
    weights = Contents(model).weights
    paths = {id(weight.variable): weight.path for weight in weights}
    # The weights in the order in which the trace meets them.
    axes = [(key, axis) for key, axis in trace.axes if key in paths]
    roots = [trace.labels.roots(trace.axes[place]) for place in axes]
    classes = _classes(roots)
    used, uses = _multiply_adds(trace), uses_of(model, trace)
    read = {(id(each.variable), each.axis) for step in trace.steps for each in step.reads}
    couplings = []
    for members in _gathered(roots, classes, trace):
        size = len(members[0][1])
        slices: dict[int, list[tuple[int, np.ndarray]]] = {}
        for place, indices in members:
            key, axis = axes[place]
            slices.setdefault(key, []).append((axis, indices))
        of_weights = tuple(
            Member(trace.variables[key], paths[key], tuple(of_weight))
            for key, of_weight in slices.items()
        )
        reads = {
            (number, axis)
            for number, (key, of_weight) in enumerate(slices.items())
            for axis, _ in of_weight
            if (key, axis) in read
        }
        cost = _cost(of_weights, used)
        couplings.append(Coupling(size, of_weights, cost, reads=frozenset(reads), uses=uses))
    return Couplings(couplings, _fixed(axes, roots, paths, trace))


def uses_of(model: Model, trace: Trace) -> tuple[Use, ...]:
    """How often each weight of `model` is multiplied for an example."""
    used = _multiply_adds(trace)
    uses = []
    for weight in Contents(model).weights:
        key = id(weight.variable)
        # Vectors, such as biases and scales, are not counted anywhere.
        is_unknown = key in trace.blocked and key not in used and len(weight.variable.shape) > 1
        uses.append(Use(weight.variable, None if is_unknown else int(used.get(key, 0))))
    return tuple(uses)


def _classes(roots: list[np.ndarray]) -> dict[int, int]:
    """A number for each root, the same for those with equal numbers of slices of the same axes."""
    classes: dict[int, int] = {}
    known: dict[tuple[int, int, int], int] = {}
    for place, along in enumerate(roots):
        distinct, counts = np.unique(along, return_counts=True)
        for root, count in zip(distinct.tolist(), counts.tolist()):
            pattern = (classes.get(root, 0), place, count)
            classes[root] = known.setdefault(pattern, len(known) + 1)
    return classes


def _gathered(
    roots: list[np.ndarray], classes: dict[int, int], trace: Trace
) -> list[list[tuple[int, np.ndarray]]]:
    """For each class of free roots, pairs of a place in `roots` and the indices of each root."""
    free = {root for root in classes if trace.labels.reason(root) is None}
    found: dict[int, list[tuple[int, np.ndarray]]] = {}
    # The entries of a class are in the order of the first axis that has them.
    order: dict[int, dict[int, int]] = {}
    for place, along in enumerate(roots):
        distinct, first = np.unique(along, return_index=True)
        in_order = distinct[np.argsort(first)]
        sorted_places = np.argsort(along, kind="stable")
        starts = np.searchsorted(along[sorted_places], distinct)
        counts = np.diff([*starts, len(along)])
        where = {root: (s, c) for root, s, c in zip(distinct.tolist(), starts, counts)}
        by_class: dict[int, list[int]] = {}
        for root in in_order.tolist():
            if root in free:
                by_class.setdefault(classes[root], []).append(root)
        for cls, members in by_class.items():
            entries = order.setdefault(cls, {root: i for i, root in enumerate(members)})
            indices = np.array(
                [sorted_places[where[root][0] : sum(where[root])] for root in entries]
            )
            found.setdefault(cls, []).append((place, indices))
    return list(found.values())


def _multiply_adds(trace: Trace) -> dict[int, float]:
    """How often each element of a weight is multiplied for an example, by the weight's id."""
    used: dict[int, float] = {}
    for step in trace.steps:
        for variable, times in step.uses:
            used[id(variable)] = used.get(id(variable), 0) + times
    return used


def _cost(members: tuple[Member, ...], used: dict[int, float]) -> Cost:
    parameters, multiply_adds = 0, 0.0
    for member in members:
        elements = _elements(member)
        parameters += elements
        multiply_adds += elements * used.get(id(member.variable), 0)
    return Cost(parameters, int(multiply_adds))


def _elements(member: Member) -> int:
    """The number of elements of an entry in a weight; what two of its slices share counts once."""
    shape = list(member.variable.shape)
    outside = list(shape)
    for axis, indices in member.slices:
        outside[axis] -= indices.shape[1]
    return int(np.prod(shape) - np.prod(outside))


def _fixed(
    axes: list[tuple[int, int]], roots: list[np.ndarray], paths: dict[int, str], trace: Trace
) -> list[Fixed]:
    fixed = []
    for (key, axis), along in zip(axes, roots):
        counts: dict[str, int] = {}
        for root in along.tolist():
            reason = trace.labels.reason(root)
            if reason is not None:
                counts[reason] = counts.get(reason, 0) + 1
        fixed += [Fixed(paths[key], axis, count, reason) for reason, count in counts.items()]
    followed = {key for key, _ in axes}
    for key, reason in trace.blocked.items():
        if key in paths and key not in followed:
            shape = trace.variables[key].shape
            fixed += [Fixed(paths[key], i, n, reason) for i, n in enumerate(shape)]
    return fixed
