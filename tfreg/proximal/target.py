"""Budget: how much of a model is left, and when the rest goes."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments, check_int, is_int
from tfreg.read_only import ReadOnly

# What a budget over couplings may bound.
RESOURCES = ("multiply_adds", "parameters", "groups")
SCORES = ("taylor", "norm")


class Count(NamedTuple):
    """The count of a resource: the `total` at first, the `target` of the end, and what is `left`.

    Of a pattern it is that of one run, the fullest.
    """

    resource: str
    total: int
    target: int
    left: int


@backend.register
class Budget(ReadOnly):
    """What is left of a model at the end of training, met by removal: for `tfreg.Proximal`.

    `cost_k = exp(log cost_0 + (log target - log cost_0) * (1 - (1 - t)^3))`
    with `t = (k - begin) / (end - begin)` clipped to [0, 1]

    is what may be left at step k. Every few steps it removes what matters least, and keeps it zero;
    nothing else is shrunk. What may be left is one of these:

    - `multiply_adds`, `parameters`, `groups`: entries of couplings go, those with the smallest
      score over cost first, where the cost is an entry's share of what is left, summed over those
      of the three that are given. `tfreg.compact` cuts them out: a smaller model.
    - `elements`: the elements of smallest magnitude go, of all weights together.
    - `pattern`: of each run of m consecutive elements along the input axis the n largest stay.

    Args:
        multiply_adds: the multiplications with weights for one example, those of all layers.
        parameters: the elements of all weights; moving statistics do not count.
        groups: the entries of the couplings.
        elements: the nonzero elements of the weights.
        pattern: a pair of ints `(n, m)` with `0 < n < m`, such as `(2, 4)`.
        score: what says how much an entry matters:

            - `"taylor"`: a moving average of `(sum_i w_i * gradient_i)^2` over all that makes the
              entry: its incoming weights, bias and normalization.
            - `"norm"`: the Euclidean norm of these weights.
            - a registered function of a weight and its gradient, tensors, that returns a tensor of
              their shape: a moving average of its sum over these weights.
        begin: the step of the optimizer at which removal begins.
        end: the step from which on the target is met.
        heal: the step from which on the other penalties of the optimizer rest too.
        every: how many steps apart removals are, an int >= 1.
        minimum: how many entries of each coupling, or elements of each weight, stay at least, an
            int >= 1. No part of a `pattern`.
        steps: the number of steps that training will take, an int >= 1, of which `begin`, `end` and
            `heal` are shares if they are floats. Ints are numbers of steps.

    The steps are updates: with gradient accumulation fewer than batches. The optimizer must not
    have taken more than `begin`.

    A float as target is a share in (0, 1] of what is there at first, an int >= 1 a count.
    `multiply_adds`, `parameters` and `groups` may be given together: all are met.

    Attributes:
        begin_step, end_step, heal_step: the steps that `begin`, `end` and `heal` stand for.

    Raises:
        TypeError, ValueError: for other arguments; for shares of steps without `steps`.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16, "relu")])
    >>> model.add(keras.layers.Dense(1))
    >>> budget = tfreg.Budget(multiply_adds=0.5, begin=2, end=20, heal=25, every=2)
    >>> optimizer = tfreg.Proximal(keras.optimizers.Adam(), model, budget)
    >>> model.compile(optimizer, "mse")
    >>> history = model.fit(tf.random.normal([64, 8]), tf.ones([64, 1]), epochs=15, verbose=0)
    >>> tfreg.compact(model).layers[0].units
    8

    References:
        Molchanov et al., Importance estimation for neural network pruning, 2019.
        Zhu and Gupta, To prune, or not to prune: exploring the efficacy of pruning for model
        compression, 2017.
        Mishra et al., Accelerating sparse deep neural networks, 2021 (2:4).
    """

    _instead = "Make another one, and an optimizer with it."

    def __init__(
        self,
        multiply_adds: float | int | None = None,
        parameters: float | int | None = None,
        groups: float | int | None = None,
        elements: float | int | None = None,
        pattern: tuple[int, int] | None = None,
        score: str | Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = "taylor",
        begin: float | int = 0.05,
        end: float | int = 0.5,
        heal: float | int = 0.55,
        every: int = 10,
        minimum: int = 2,
        steps: int | None = None,
    ) -> None:
        self.multiply_adds = _check_target("multiply_adds", multiply_adds)
        self.parameters = _check_target("parameters", parameters)
        self.groups = _check_target("groups", groups)
        self.elements = _check_target("elements", elements)
        self.pattern = _check_pattern(pattern)
        kinds = [bool(self.resources), self.elements is not None, self.pattern is not None]
        if sum(kinds) != 1:
            raise ValueError(
                "tfreg.Budget must have some of `multiply_adds`, `parameters` and `groups`, or "
                "`elements` alone, or `pattern` alone. "
                f"Received: multiply_adds={multiply_adds!r}, parameters={parameters!r}, "
                f"groups={groups!r}, elements={elements!r}, pattern={pattern!r}"
            )
        self.score = self._check_score(score)
        self.steps = None if steps is None else check_int("steps", steps, 1)
        self.begin = self._check_step("begin", begin)
        self.end = self._check_step("end", end)
        self.heal = self._check_step("heal", heal)
        if not self.begin_step < self.end_step <= self.heal_step:
            raise ValueError(
                "Arguments `begin`, `end` and `heal` must be steps with begin < end <= heal. "
                f"Received: begin={begin!r}, end={end!r}, heal={heal!r}, steps={steps!r}, which "
                f"are the steps {self.begin_step}, {self.end_step} and {self.heal_step}"
            )
        self.every = check_int("every", every, 1)
        self.minimum = check_int("minimum", minimum, 1)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises a TypeError: what Keras calls is a layer's regularizer, and this is none."""
        raise TypeError(
            "A tfreg.Budget is no regularizer of a layer: give it to the optimizer, with "
            f"tfreg.Proximal(optimizer, model, budget). Received: {self!r} as a function"
        )

    def _check_score(self, score: Any) -> Any:
        if isinstance(score, str) and score in SCORES:
            if score != "taylor" and not self.resources:
                raise ValueError(_NO_SCORE.format(score=score))
            return score
        if isinstance(score, (str, type)) or not callable(score):
            raise ValueError(
                f"Argument `score` must be one of {list(SCORES)} or a registered function of a "
                f"weight and its gradient. Received: score={score!r}"
            )
        if not self.resources:
            raise ValueError(_NO_SCORE.format(score=repr(score)))
        backend.check_registered("score", score)
        return score

    def _check_step(self, name: str, value: Any) -> float | int:
        if is_int(value) and value >= 0:
            return int(value)
        if not _is_share(value):
            raise ValueError(
                f"Argument `{name}` must be an int >= 0, a step, or a float in [0, 1], a share of "
                f"`steps`. Received: {name}={value!r}"
            )
        if self.steps is None:
            raise ValueError(
                f"Argument `{name}` is a share of the steps that training will take: give their "
                "number as `steps`, such as epochs * batches, or give `begin`, `end` and `heal` as "
                f"step numbers. Received: {name}={value!r}, steps=None"
            )
        return value

    @property
    def resources(self) -> dict[str, float | int]:
        """The targets over couplings that are given."""
        given = {name: getattr(self, name) for name in RESOURCES}
        return {name: target for name, target in given.items() if target is not None}

    @property
    def begin_step(self) -> int:
        return self._step(self.begin)

    @property
    def end_step(self) -> int:
        return self._step(self.end)

    @property
    def heal_step(self) -> int:
        return self._step(self.heal)

    def _step(self, given: float | int) -> int:
        # The last step of all is the one before `steps`.
        of_steps = self.steps or 0
        return given if is_int(given) else min(round(given * of_steps), of_steps - 1)

    def progress(self, step: tf.Tensor) -> tf.Tensor:
        """`1 - (1 - t)^3` at a step, a float64 scalar."""
        elapsed = tf.cast(tf.cast(step, tf.int64) - self.begin_step, tf.float64)
        t = tf.clip_by_value(elapsed / float(self.end_step - self.begin_step), 0.0, 1.0)
        return 1.0 - (1.0 - t) ** 3

    def is_event(self, step: tf.Tensor) -> tf.Tensor:
        """Whether what is left is brought below the curve after the optimizer's `step`."""
        step = tf.cast(step, tf.int64)
        is_in_turn = tf.equal((step - self.begin_step) % self.every, 0)
        return (step >= self.begin_step) & (is_in_turn | tf.equal(step, self.end_step))

    @staticmethod
    def resolved(target: float | int, total: int) -> int:
        """The count that a `target` means, of `total`."""
        # A share such as 0.3 is not exact: 0.3 of 10 is 3.
        return target if is_int(target) else math.floor(target * total * (1.0 + 1e-12))

    def get_config(self) -> dict[str, Any]:
        score = self.score if isinstance(self.score, str) else backend.serialize(self.score)
        return {
            "multiply_adds": self.multiply_adds,
            "parameters": self.parameters,
            "groups": self.groups,
            "elements": self.elements,
            "pattern": None if self.pattern is None else list(self.pattern),
            "score": score,
            "begin": self.begin,
            "end": self.end,
            "heal": self.heal,
            "every": self.every,
            "minimum": self.minimum,
            "steps": self.steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Budget":
        config = dict(check_arguments(cls, config))
        if isinstance(config.get("score"), dict):
            config["score"] = backend.deserialize(config["score"])
        return cls(**config)

    def __repr__(self) -> str:
        config = self.get_config()
        config["score"] = self.score
        targets = {**dict.fromkeys(RESOURCES), "elements": None, "pattern": None, "steps": None}
        shown = [f"{k}={v!r}" for k, v in config.items() if k not in targets or v is not None]
        return f"Budget({', '.join(shown)})"


def _is_share(value: Any) -> bool:
    """Whether `value` is a real number in [0, 1] that is no int."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, (bool, numbers.Integral))
    return is_real and 0.0 <= value <= 1.0


_NO_SCORE = (
    "Argument `score` goes with `multiply_adds`, `parameters` or `groups`: elements go by their "
    "magnitude. Received: score={score}"
)


def _check_target(name: str, value: Any) -> float | int | None:
    if value is None:
        return None
    if is_int(value) and value >= 1:
        return int(value)
    if _is_share(value) and 0.0 < value:
        return float(value)
    raise ValueError(
        f"Argument `{name}` must be a float in (0, 1], a share, or an int >= 1, a count. "
        f"Received: {name}={value!r}"
    )


def _check_pattern(pattern: Any) -> tuple[int, int] | None:
    if pattern is None:
        return None
    is_pair = isinstance(pattern, (list, tuple)) and len(pattern) == 2 and all(map(is_int, pattern))
    if not is_pair or not 0 < pattern[0] < pattern[1]:
        raise ValueError(
            "Argument `pattern` must be a pair of ints (n, m) with 0 < n < m. "
            f"Received: pattern={pattern!r}"
        )
    return int(pattern[0]), int(pattern[1])
