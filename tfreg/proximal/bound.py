"""Penalties bound to the weights that an optimizer trains, and their proximal steps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from tfreg import backend, schedules
from tfreg.checks import check_config, is_int
from tfreg.compute.numerics import accumulation_dtype
from tfreg.inventory import Model, Variable, Weight
from tfreg.layout import Layout
from tfreg.model.attached import get_penalties
from tfreg.model.carried import Cuts
from tfreg.model.contents import Contents
from tfreg.model.selection import Selection, check_no_lora
from tfreg.model.terms import Schedule, Term, check_fit
from tfreg.penalties import Joint, Penalty, Sum
from tfreg.penalties.base import Cut
from tfreg.proximal.zeros import are_alive, count_zeros


class Trained(NamedTuple):
    """A weight by its place among those that an optimizer trains."""

    place: int
    shape: tuple[int, ...]
    path: str
    layout: Layout | None

    def get_config(self) -> dict[str, Any]:
        return {
            "index": self.place,
            "shape": list(self.shape),
            "path": self.path,
            "layout": None if self.layout is None else self.layout.get_config(),
        }

    @classmethod
    def from_config(cls, config: Any) -> "Trained":
        config = check_config(
            "a weight of tfreg.Proximal", config, ("index", "shape", "path", "layout")
        )
        index, shape, layout = config["index"], config["shape"], config["layout"]
        are_ints = isinstance(shape, (list, tuple)) and all(map(is_int, [index, *shape]))
        if (
            not are_ints
            or min([index, *shape], default=0) < 0
            or not isinstance(config["path"], str)
        ):
            raise ValueError(
                "The config of a weight of tfreg.Proximal must have an index, a shape and a path. "
                f"Received: {config!r}"
            )
        layout = None if layout is None else Layout(layout)
        if layout is not None and layout.rank != len(shape):
            raise ValueError(
                "The config of a weight of tfreg.Proximal must have a layout of its axes. "
                f"Received: {config!r}"
            )
        return cls(index, tuple(shape), config["path"], layout)


# A penalty that shrinks in proportion leaves something of this.
_SMALL, _LONG_STEP = 1e-15, 1e-3


class Bound(NamedTuple):
    """A penalty on a weight, or a `Joint` on several."""

    penalty: Penalty | Joint
    weights: tuple[Trained, ...]
    schedule: Schedule | None

    def prox(
        self, variables: Sequence[tf.Variable], step_size: Any, metric: tf.Tensor | None = None
    ) -> list[tf.Tensor]:
        """The proximal operator; in the diagonal `metric` of the one weight, if that is given."""
        penalty: Any = self.penalty
        layouts = [weight.layout for weight in self.weights]
        if not isinstance(penalty, Joint):
            return [penalty.prox_on(variables[0], layouts[0], step_size, metric)]
        if metric is not None:
            raise NotImplementedError(
                f"The proximal operator of {penalty!r} in a diagonal metric has no known closed "
                "form. Use the Euclidean metric."
            )
        return penalty.prox_on(variables, layouts, step_size)

    def are_alive(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return are_alive(self.penalty, tensors, [weight.layout for weight in self.weights])

    def zeros(self, tensors: Sequence[tf.Tensor]) -> tuple[tf.Tensor, int]:
        """How many of the penalty's groups, or elements if it has none, are 0, and of how many."""
        layouts = [weight.layout for weight in self.weights]
        return count_zeros(self.penalty, tensors, layouts)

    def makes_zeros(self) -> bool:
        """Whether proximal steps make something exactly 0."""
        with tf.init_scope():
            small = [tf.fill(weight.shape, _SMALL) for weight in self.weights]
            shrunk = self.prox(small, _LONG_STEP)
            return any(bool(tf.reduce_any(tf.equal(each, 0.0))) for each in shrunk)

    def step_size(
        self,
        dtype: tf.DType,
        learning_rate: Any,
        step: tf.Tensor,
        start: int,
        end: int | None,
        momentum: float,
    ) -> tf.Tensor:
        """The size of the proximal step that follows the optimizer's at `step`.

        The first is that at `start`; from `end` on there are none.
        """
        dtype = accumulation_dtype(dtype)
        size = tf.cast(tf.convert_to_tensor(learning_rate), dtype) / (1.0 - momentum)
        if self.schedule is not None:
            size *= schedules.multiplier(self.schedule, lambda: step, dtype)
        if start > 0:
            size = tf.where(step < tf.cast(start, step.dtype), tf.zeros_like(size), size)
        if end is not None:
            size = tf.where(step < tf.cast(end, step.dtype), size, tf.zeros_like(size))
        return size

    def multiplier(self, step: tf.Tensor) -> float:
        """What the schedule gives the strength at an optimizer's `step`."""
        if self.schedule is None:
            return 1.0
        return float(schedules.multiplier(self.schedule, lambda: step, tf.float64))

    def shrink(
        self, variables: Sequence[tf.Variable], size: tf.Tensor, metric: tf.Tensor | None = None
    ) -> None:
        """Takes a proximal step, in the optimizer's `metric`."""
        for variable, shrunk in zip(variables, self.prox(variables, size, metric)):
            variable.assign(shrunk)


def check(model: Model, terms: Iterable[Term], is_diagonal: bool = False) -> None:
    """Raises an error if a proximal step on the `terms` of a built `model` cannot be taken.

    Raises:
        NotImplementedError: if a penalty has no proximal operator, or none in a diagonal metric,
            where that is needed.
        ValueError: if a term has nothing to train, or a penalty does not fit its weights, or is in
            the loss on them too.
    """
    contents = Contents(model)
    in_loss = _in_the_loss(model)
    for term in terms:
        weights = trained_weights(contents, term)
        check_fit(contents, term)
        for weight in weights:
            for kind in _kinds(term.penalty) & in_loss.get(id(weight.variable), set()):
                raise ValueError(
                    f"The penalty {kind.__name__} on the weight {weight.path!r} is in the loss and "
                    "in tfreg.Proximal, which would count it twice. Take it out of one: call "
                    "tfreg.remove_penalties(model), or make the layer without the regularizer."
                )
        first = _bind(contents, term, [weight.variable for weight in weights])[0]
        _check_has_prox(first, weights, is_diagonal)


def bind(model: Model, terms: Iterable[Term], variables: Sequence[Variable]) -> list[Bound]:
    """The `terms` of a built `model`, bound to `variables`, those that the optimizer trains.

    Frozen weights are left out.

    Raises:
        ValueError: if a selected weight is not among the `variables`.
    """
    contents = Contents(model)
    return [each for term in terms for each in _bind(contents, term, variables)]


def _bind(contents: Contents, term: Term, variables: Sequence[Variable]) -> list[Bound]:
    places = {id(variable): i for i, variable in enumerate(variables)}
    trained = []
    for weight in trained_weights(contents, term):
        variable = weight.variable
        if id(variable) not in places:
            raise ValueError(not_trained(weight.path))
        layout = contents.layouts.get(id(variable))
        place, shape = places[id(variable)], tuple(variable.shape)
        trained.append(Trained(place, shape, weight.path, layout))
    together = [tuple(trained)] if isinstance(term.penalty, Joint) else [(t,) for t in trained]
    return [Bound(term.penalty, group, term.schedule) for group in together]


def carried(
    terms: Iterable[Bound],
    variables: Sequence[Variable],
    new_model: Model,
    new_variables: Sequence[Variable],
    twins: Mapping[int, Variable],
    cuts: Cuts,
) -> list[Bound]:
    """The `terms` on `variables` for `new_variables`, which are parts of them.

    Args:
        terms: the penalties.
        variables, new_variables: what the old optimizer trains, and the new one.
        new_model: the model of the new ones.
        twins: the new variables by the ids of the old ones.
        cuts: what is left of the old ones.

    Raises:
        ValueError: if a penalty does not hold for what is left.
    """
    contents = Contents(new_model)
    places = {id(variable): i for i, variable in enumerate(new_variables)}
    found = []
    for term in terms:
        parts, weights = [], []
        for weight in term.weights:
            old = variables[weight.place]
            twin = twins.get(id(old))
            if twin is None or id(twin) not in places:
                continue
            path = contents.weights_by_id[id(twin)].path
            layout, shape = contents.layouts.get(id(twin)), tuple(twin.shape)
            kept = cuts.get(id(old), (None,) * len(shape))
            parts.append(Cut(weight.shape, kept, repr(weight.path), weight.layout, layout))
            weights.append(Trained(places[id(twin)], shape, path, layout))
        if parts and len(parts) < len(term.weights):
            raise parts[0].not_carried(term.penalty, "another of its weights is gone")
        if parts:
            is_joint = isinstance(term.penalty, Joint)
            penalty: Any = term.penalty
            left = penalty.on_parts(parts) if is_joint else penalty.on_part(parts[0])
            if left is not None:
                found.append(Bound(left, tuple(weights), term.schedule))
    return found


def trained_weights(contents: Contents, term: Term) -> list[Weight]:
    """The weights of a `term` that are not frozen.

    Raises:
        ValueError: if there is none; or some of those of a `Joint` are frozen.
    """
    return trained_of(contents, term.selection, term.penalty, isinstance(term.penalty, Joint))


def trained_of(
    contents: Contents, selection: Selection, wanted: Any, are_together: bool
) -> list[Weight]:
    """The selected weights that are not frozen, for what is `wanted` of them.

    Raises:
        ValueError: if there is none; or some of those that `are_together` are frozen.
    """
    weights = selection.select(contents)
    check_no_lora(weights)
    for weight in weights:
        if isinstance(weight.variable, backend.ShardedVariable):
            raise ValueError(
                "tfreg.Proximal needs whole weights: do not use a variable partitioner. "
                f"Received: {weight.path!r}, which is cut into shards"
            )
    trained = [weight for weight in weights if id(weight.variable) in contents.trainable]
    frozen = [weight.path for weight in weights if id(weight.variable) not in contents.trainable]
    if not trained or (frozen and are_together):
        raise ValueError(
            f"tfreg.Proximal needs weights that are trained for {wanted!r}. "
            f"Received: {frozen}, which are frozen. Make them trainable, or leave "
            f"{'them' if not trained else 'this penalty'} out"
        )
    return trained


def not_trained(path: str) -> str:
    return (
        f"The optimizer does not train the weight {path!r}, which a penalty or budget of "
        "tfreg.Proximal is on. If you froze it, or train only some of the weights, make an "
        "optimizer with tfreg.Proximal anew, with penalties and budgets on weights that it trains."
    )


def _kinds(penalty: Any) -> set[type]:
    """The classes of the penalties that `penalty` consists of."""
    if isinstance(penalty, Joint):
        return _kinds(penalty.penalty)
    if isinstance(penalty, Sum):
        return {kind for member in penalty.penalties for kind in _kinds(member)}
    return {type(penalty)} if isinstance(penalty, Penalty) else set()


def _in_the_loss(model: Model) -> dict[int, set[type]]:
    """The classes of the penalties that are in the loss on each weight, by its id."""
    found: dict[int, set[type]] = {}
    for attached in get_penalties(model):
        for weight in attached.weights or ():
            found.setdefault(id(weight), set()).update(_kinds(attached.penalty))
    return found


def _check_has_prox(bound: Bound, weights: Sequence[Weight], is_diagonal: bool) -> None:
    """Raises a NotImplementedError if the penalty has no proximal operator, or none as needed."""
    weights = weights[: len(bound.weights)]
    with tf.Graph().as_default():
        tensors: Any = [
            tf.compat.v1.placeholder(backend.native(weight.variable).dtype, weight.variable.shape)
            for weight in weights
        ]
        metrics = [None, tf.ones_like(tensors[0])] if is_diagonal else [None]
        size = tf.compat.v1.placeholder(tf.float32, [])
        for metric in metrics:
            needed = "" if metric is None else " in the optimizer's own metric, metric='diagonal'"
            try:
                bound.prox(tensors, size, metric)
            except NotImplementedError as error:
                raise NotImplementedError(
                    f"tfreg.Proximal needs penalties with a proximal operator{needed}. Received: a "
                    f"penalty on {[weight.path for weight in weights]} for which there is none. "
                    f"{error}"
                ) from error


class HasWeights(Protocol):
    """A penalty or a budget, bound."""

    @property
    def weights(self) -> tuple[Trained, ...]: ...


def weights_in(terms: Iterable[HasWeights]) -> Iterator[Trained]:
    """The weights of the `terms`, each once."""
    yield from {weight.place: weight for term in terms for weight in term.weights}.values()


def config_of(terms: Iterable[Bound]) -> list[dict[str, Any]]:
    return [
        {
            "penalty": backend.serialize(term.penalty),
            "schedule": None if term.schedule is None else backend.serialize(term.schedule),
            "weights": [weight.get_config() for weight in term.weights],
        }
        for term in terms
    ]


def bound_from(configs: Any) -> list[Bound]:
    if not isinstance(configs, list):
        raise ValueError(
            f"The config of tfreg.Proximal must have a list of penalties. Received: {configs!r}"
        )
    return [_bound(config) for config in configs]


def _bound(config: Any) -> Bound:
    check_config("a penalty of tfreg.Proximal", config, ("penalty", "schedule", "weights"))
    penalty, schedule = backend.deserialize(config["penalty"]), config["schedule"]
    if not isinstance(penalty, (Penalty, Joint)):
        raise ValueError(
            "The config of a penalty of tfreg.Proximal must have a penalty or a tfreg.Joint as its "
            f"'penalty'. Received: {penalty!r} in {config!r}"
        )
    schedule = None if schedule is None else schedules.check_kind(backend.deserialize(schedule))
    weights = config["weights"]
    is_list = isinstance(weights, list) and len(weights) > 0
    if not is_list or (len(weights) > 1 and not isinstance(penalty, Joint)):
        raise ValueError(
            "The config of a penalty of tfreg.Proximal must list its weight, or those of a "
            f"tfreg.Joint. Received: {weights!r} in {config!r}"
        )
    return Bound(penalty, tuple(map(Trained.from_config, weights)), schedule)


def check_fits(terms: Iterable[HasWeights], variables: Sequence[Variable], count: int) -> None:
    """Raises a ValueError if `variables` are not what the `terms` were bound to."""
    for weight in weights_in(terms):
        is_there = len(variables) == count and weight.place < count
        found = tuple(variables[weight.place].shape) if is_there else None
        if found != weight.shape:
            what = f"one of shape {found}" if is_there else f"{len(variables)} trained weights"
            raise ValueError(
                "A tfreg.Proximal optimizer was made for another model: its penalty on the weight "
                f"{weight.path!r} needs {count} trained weights, with one of shape {weight.shape} "
                f"at place {weight.place}. Received: {what}. Compile the model with an optimizer "
                "of its own: tfreg.Proximal(optimizer, model, penalties)."
            )
