"""Removal of entries of couplings: which go next, until a budget is met."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_config, is_int
from tfreg.compute.numerics import accumulation_dtype
from tfreg.proximal.bound import Trained
from tfreg.proximal.target import Budget, Count
from tfreg.proximal.widths import CountedWeight, Widths
from tfreg.slices import Slices

# The decay of the moving averages of scores.
DECAY = 0.98


class Owned(NamedTuple):
    """What the entries of a coupling own of a weight, by its number.

    Along the axes `reads` the weight reads the entries; along the others it makes them.
    """

    weight: int
    slices: Slices
    reads: tuple[int, ...]


class Removal:
    """A budget over couplings, on the weights in which they have slices.

    Args:
        budget: the budget.
        weights: the weights in which couplings have slices.
        couplings: what each coupling owns of which weight.
        times: how often each element of each weight is multiplied for an example.
        fixed: the parameters and multiply-adds of all other weights of the model.

    Raises:
        ValueError: if entries share slices, or if the budget cannot be met.
    """

    def __init__(
        self,
        budget: Budget,
        weights: Sequence[Trained],
        couplings: Sequence[Sequence[Owned]],
        times: Sequence[int],
        fixed: tuple[int, int],
    ) -> None:
        self.budget, self.weights = budget, tuple(weights)
        self._couplings, self._times, self._fixed = couplings, times, fixed
        self._sizes = np.array([owned[0].slices.size for owned in couplings])
        self._starts = np.cumsum([0, *self._sizes[:-1]])
        self._coupling_of = np.repeat(np.arange(len(couplings)), self._sizes).astype(np.int32)
        self._least = np.minimum(budget.minimum, self._sizes)
        self._owners = self._made_owners()
        self._widths = Widths(self._counted(), self._sizes.tolist(), fixed)
        self._makers, self._sources = self._made_sources()
        self._targets = self._made_targets()

    @property
    def _count(self) -> int:
        """The number of entries of all couplings."""
        return len(self._coupling_of)

    def _made_owners(self) -> list[dict[int, np.ndarray]]:
        """For each weight, by axis, the entry that owns each index; the number of them for none."""
        owners: list[dict[int, np.ndarray]] = [{} for _ in self.weights]
        for start, coupling in zip(self._starts, self._couplings):
            for number, slices, _ in coupling:
                shape = self.weights[number].shape
                for axis, indices in slices.pairs:
                    table = owners[number].setdefault(
                        axis, np.full(shape[axis], self._count, np.int32)
                    )
                    if (table[indices] < self._count).any():
                        raise ValueError(
                            "A tfreg.Budget must be over couplings that own different slices. "
                            f"Received: several that own axis {axis} of the weight "
                            f"{self.weights[number].path!r}: list each once"
                        )
                    table[indices] = start + np.arange(slices.size)[:, np.newaxis]
        return owners

    def _counted(self) -> list[CountedWeight]:
        pairs: list[list[list[tuple[int, int]]]] = [[[] for _ in w.shape] for w in self.weights]
        for c, coupling in enumerate(self._couplings):
            for number, slices, _ in coupling:
                for axis, indices in slices.pairs:
                    pairs[number][axis].append((c, indices.shape[1]))
        return [
            CountedWeight(weight.shape, times, tuple(map(tuple, along)))
            for weight, times, along in zip(self.weights, self._times, pairs)
        ]

    def _made_sources(self) -> tuple[list[tuple[int, int]], np.ndarray]:
        """Axes of weights, and where in the sums along them, in a row, each entry has its own.

        The rows of the second are filled up with the index past the sums.
        """
        makers: dict[tuple[int, int], int] = {}
        end = 0
        rows = []
        for coupling in self._couplings:
            slices = [
                (number, axis, indices, axis in reads)
                for number, owned, reads in coupling
                for axis, indices in owned.pairs
            ]
            making = [each[:3] for each in slices if not each[3]]
            columns = []
            for number, axis, indices in making or [each[:3] for each in slices]:
                if (number, axis) not in makers:
                    makers[number, axis] = end
                    end += self.weights[number].shape[axis]
                columns.append(makers[number, axis] + indices)
            rows.append(np.concatenate(columns, axis=1))
        width = max(each.shape[1] for each in rows)
        filled = [
            np.pad(each, [(0, 0), (0, width - each.shape[1])], constant_values=end) for each in rows
        ]
        return list(makers), np.concatenate(filled).astype(np.int32)

    def _made_targets(self) -> dict[str, tuple[int, int]]:
        """For each resource what there is at first, and what may be left."""
        with tf.init_scope(), tf.device("CPU"):
            at_first = self._widths.costs(self._sizes)
            at_last = self._widths.costs(self._least)
            counts = {name: (int(at_first[name]), int(at_last[name])) for name in at_first}
        targets = {}
        for name, target in self.budget.resources.items():
            total, least = counts[name]
            resolved = self.budget.resolved(target, total)
            if not least <= resolved <= total:
                raise ValueError(
                    f"Argument `{name}` of tfreg.Budget must be at least {least:,}, what is left "
                    f"if {self.budget.minimum} entries of each coupling stay, and at most "
                    f"{total:,}, what there is. "
                    f"Received: {name}={target!r}, which is {resolved:,}"
                )
            targets[name] = total, resolved
        return targets

    def state(self) -> list[tuple[int, ...]]:
        """The shapes of its variables: the scores, and 1 for each entry that is removed."""
        return [(self._count,), (self._count,)]

    def observe(
        self,
        state: Sequence[tf.Variable],
        weights: Sequence[tf.Variable],
        gradients: Sequence[Any],
        step: tf.Tensor,
    ) -> None:
        """Updates the scores by the gradients at the weights as they are."""
        if self.budget.score == "norm":
            return
        scores, _ = state
        contributions: dict[int, tf.Tensor] = {}
        for number in {number for number, _ in self._makers}:
            gradient = gradients[number]
            if gradient is None:
                continue
            dtype = accumulation_dtype(weights[number].dtype)
            w = tf.cast(tf.convert_to_tensor(weights[number]), dtype)
            contributions[number] = self._contribution(
                w, tf.cast(tf.convert_to_tensor(gradient), dtype)
            )
        sums = self._sums(contributions)
        if self.budget.score == "taylor":
            sums = tf.square(sums)
        scores.assign(DECAY * scores + (1.0 - DECAY) * sums)

    def _contribution(self, w: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
        if self.budget.score == "taylor":
            return w * gradient
        contribution = tf.convert_to_tensor(self.budget.score(w, gradient))
        if contribution.shape != w.shape:
            raise ValueError(
                "Argument `score` of tfreg.Budget must return a tensor of the weight's shape. "
                f"Received: one of shape {contribution.shape} for {w.shape}, from "
                f"{self.budget.score!r}"
            )
        return contribution

    def _sums(self, contributions: dict[int, tf.Tensor]) -> tf.Tensor:
        """The sums over what makes each entry, of float32."""
        along = []
        for number, axis in self._makers:
            shape = self.weights[number].shape
            if number not in contributions:
                along.append(tf.zeros([shape[axis]]))
                continue
            others = [other for other in range(len(shape)) if other != axis]
            sums = tf.reduce_sum(contributions[number], axis=others)
            along.append(tf.cast(sums, tf.float32))
        # A gather and a sum of rows add in one order on every device, which scatters do not:
        # replicas must remove the same.
        return tf.reduce_sum(tf.gather(tf.concat([*along, [0.0]], 0), self._sources), axis=1)

    def remove(
        self, state: Sequence[tf.Variable], weights: Sequence[tf.Variable], step: tf.Tensor
    ) -> None:
        """Marks what is to go after this `step` as removed."""
        scores, removed = state

        def marked() -> tf.Tensor:
            current = tf.convert_to_tensor(scores)
            if self.budget.score == "norm":
                current = self._norms(weights)
            return self._removed(current, tf.convert_to_tensor(removed), step)

        def as_before() -> tf.Tensor:
            return tf.convert_to_tensor(removed)

        removed.assign(tf.cond(self.budget.is_event(step), marked, as_before))

    def _norms(self, weights: Sequence[tf.Variable]) -> tf.Tensor:
        squares = {}
        for number in {number for number, _ in self._makers}:
            dtype = accumulation_dtype(weights[number].dtype)
            squares[number] = tf.square(tf.cast(tf.convert_to_tensor(weights[number]), dtype))
        return tf.sqrt(self._sums(squares))

    def _removed(self, scores: tf.Tensor, removed: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """`removed` with what goes by these scores."""
        is_left = tf.equal(removed, 0.0)
        largest = scores.dtype.max
        # A score that is NaN belongs to a run that is lost; it must end all the same.
        known = tf.where(tf.math.is_nan(scores), largest, tf.minimum(scores, largest))
        order = _ascending_within(tf.where(is_left, known, np.inf), self._coupling_of)
        ordered = tf.cast(tf.gather(known, order), tf.float64)
        left = tf.math.unsorted_segment_sum(
            tf.cast(is_left, tf.int32), self._coupling_of, len(self._sizes)
        )
        allowed = self._allowed(step)
        targets = {name: target for name, (_, target) in self._targets.items()}

        def is_above(left: tf.Tensor, gone: tf.Tensor) -> tf.Tensor:
            costs = self._widths.costs(left)
            are_above = [costs[name] > limit for name, limit in allowed.items()]
            return tf.reduce_any(are_above) & tf.reduce_any(left > self._least)

        def one_goes(left: tf.Tensor, gone: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            places = tf.minimum(self._starts + gone, self._starts + self._sizes - 1)
            shares = self._widths.shares(left, targets)
            # Where something is above its target, an entry that may go has a share of it.
            may_go = (left > self._least) & (shares > 0.0)
            ratios = tf.where(may_go, tf.gather(ordered, places) / shares, np.inf)
            goes = tf.one_hot(tf.argmin(ratios), len(self._sizes), dtype=tf.int32)
            return left - goes, gone + tf.cast(goes, gone.dtype)

        start = left, tf.zeros(left.shape, self._starts.dtype)
        _, gone = tf.while_loop(is_above, one_goes, start)
        # The first of each coupling in the order go.
        rank = tf.argsort(order) - tf.cast(tf.gather(self._starts, self._coupling_of), tf.int32)
        goes = tf.cast(rank, gone.dtype) < tf.gather(gone, self._coupling_of)
        return tf.maximum(removed, tf.cast(goes, removed.dtype))

    def _allowed(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """What may be left of each resource after this `step`."""
        progress = self.budget.progress(step)
        is_over = tf.cast(step, tf.int64) >= self.budget.end_step
        allowed = {}
        for name, (total, target) in self._targets.items():
            # Rounding must not bring it below the total where it begins.
            curve = (1.0 + 1e-12) * tf.exp(np.log(total) + np.log(target / total) * progress)
            allowed[name] = tf.where(is_over, tf.cast(target, tf.float64), curve)
        return allowed

    def are_alive(
        self, state: Sequence[Any], weights: Sequence[Any], step: tf.Tensor
    ) -> list[tf.Tensor]:
        """For each weight a mask that broadcasts to it: false where an entry is removed."""
        is_left = tf.concat([tf.equal(tf.convert_to_tensor(state[1]), 0.0), [True]], 0)
        masks = []
        for weight, owners in zip(self.weights, self._owners):
            mask = tf.constant(True)
            for axis, table in owners.items():
                shape = [1] * len(weight.shape)
                shape[axis] = -1
                mask &= tf.reshape(tf.gather(is_left, table), shape)
            masks.append(mask)
        return masks

    def counts(self, state: Sequence[Any], weights: Sequence[Any]) -> list[Count]:
        """What there is now of what is bounded; without a `state` all that there was at first."""
        is_left = np.ones(self._count, bool)
        if state:
            is_left = np.asarray(backend.array_of(state[1])) == 0.0
        left = np.bincount(self._coupling_of, is_left, len(self._sizes)).astype(np.int64)
        with tf.init_scope(), tf.device("CPU"):
            costs = self._widths.costs(left)
        return [
            Count(name, total, target, int(costs[name]))
            for name, (total, target) in self._targets.items()
        ]

    @property
    def entries(self) -> list[list[tuple[int, Slices]]]:
        """Of each coupling, pairs of the number of a weight and the entries' slices of it."""
        return [[(each.weight, each.slices) for each in owned] for owned in self._couplings]

    def get_config(self) -> dict[str, Any]:
        return {
            "budget": backend.serialize(self.budget),
            "weights": [weight.get_config() for weight in self.weights],
            "couplings": [
                [
                    {"weight": number, "slices": slices.get_config(), "reads": list(reads)}
                    for number, slices, reads in coupling
                ]
                for coupling in self._couplings
            ],
            "times": list(self._times),
            "fixed": list(self._fixed),
        }

    @classmethod
    def from_config(cls, config: Any) -> "Removal":
        config = check_config("a tfreg.Budget over couplings", config, _KEYS)
        couplings, times, fixed = config["couplings"], config["times"], config["fixed"]
        lists = [config["weights"], couplings, times, fixed]
        are_lists = all(isinstance(each, list) and each for each in lists)
        if are_lists:
            are_lists = all(isinstance(coupling, list) and coupling for coupling in couplings)
        is_counted = are_lists and all(map(is_int, [*times, *fixed])) and len(fixed) == 2
        if not is_counted or len(times) != len(config["weights"]):
            raise ValueError(
                "The config of a tfreg.Budget over couplings must have couplings, and counts of "
                f"each of its weights. Received: {config!r}"
            )
        weights = list(map(Trained.from_config, config["weights"]))
        owned = [[_owned(each, weights) for each in coupling] for coupling in couplings]
        return cls(
            backend.deserialize(config["budget"]), weights, owned, times, (fixed[0], fixed[1])
        )


_KEYS = ("budget", "weights", "couplings", "times", "fixed")


def _owned(config: Any, weights: Sequence[Trained]) -> Owned:
    check_config("what a coupling owns", config, ("weight", "slices", "reads"))
    number, reads = config["weight"], config["reads"]
    is_known = is_int(number) and 0 <= number < len(weights)
    if not is_known or not isinstance(reads, list) or not all(map(is_int, reads)):
        raise ValueError(
            "The config of what a coupling owns must have the number of a weight, and a list of "
            f"its axes that read. Received: {config!r}"
        )
    slices = Slices.from_config(config["slices"])
    slices.check_fits(weights[number].shape, repr(weights[number].path))
    return Owned(number, slices, tuple(reads))


def _ascending_within(values: tf.Tensor, parts: np.ndarray) -> tf.Tensor:
    """The order that sorts `values` within each of the `parts`, which are in a row."""
    places = tf.argsort(tf.argsort(values))
    return tf.argsort(parts.astype(np.int32) * len(parts) + places)
