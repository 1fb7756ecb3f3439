"""Callbacks that show what the penalties of a model do."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfreg import backend
from tfreg.reporting.course import Course, Means, Meter, Sample, total
from tfreg.reporting.logs import add_to_logs, check_names
from tfreg.reporting.zeros import zero_groups

_PENALTY, _LOSS_WITHOUT, _ZERO_GROUPS = "penalty", "loss_without_penalty", "zero_groups"
_FIGURES = (_PENALTY, _LOSS_WITHOUT, _ZERO_GROUPS)


class PenaltyMetrics(backend.Callback):
    """Adds what the penalties on a model's weights do to the logs of each epoch.

    `penalty = sum_k penalty_k(w)` at the end of the epoch

    The logs get

    - `penalty`;
    - `loss_without_penalty`: the loss of the epoch minus its penalty. The loss that `fit` tells is
      a mean over steps, so the penalty is measured before some steps, interpolated between them
      with its schedule as it is at each step, and its mean subtracted. So it is approximate, and
      what activity regularizers and `add_loss` add stays in it;
    - `zero_groups`: the share of the groups of all penalties that is exactly 0, or of elements if
      no penalty has groups; left out if there is no penalty of tfreg;
    - `val_loss_without_penalty`, with validation data: the validation loss minus the penalty at
      the weights that were validated.

    `History`, the progress line, `CSVLogger` and loggers of experiments show them. List it before
    callbacks that read them, such as
    `EarlyStopping(monitor="val_loss_without_penalty", mode="min")`, and before those that swap
    weights for validation.

    Penalties from layers' arguments and from `tfreg.add_penalty` count, and so do Keras's own
    regularizers of weights. Activity regularizers do not. Those of `tfreg.Proximal` count for
    `zero_groups` only, as they are not in the loss.

    Raises:
        ValueError: in the first step, if the model has a metric named as one of the figures; at the
            end of the first epoch, if the callback is listed twice.

    Example:

    >>> layer = keras.layers.Dense(1, kernel_regularizer=tfreg.GroupLasso(0.1))
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> model.compile("sgd", "mse")
    >>> metrics = tfreg.callbacks.PenaltyMetrics()
    >>> history = model.fit(tf.ones([4, 2]), tf.ones([4, 1]), callbacks=[metrics], verbose=0)
    >>> sorted(history.history)
    ['loss', 'loss_without_penalty', 'penalty', 'zero_groups']
    """

    def __init__(self) -> None:
        super().__init__()
        # tf_keras would otherwise wait for the logs of each batch.
        self._supports_tf_logs = True
        self._penalty_of_validation = 0.0
        self._course = Course()
        self._meter: Meter | None = None
        self._means: Means | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._course, self._means = Course(), None
        if self._meter is not None and not self._meter.measures(self.model):
            self._meter = None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # tf_keras may build it in the first step.
        self._course.begin(batch, self._sample if self.model.built else None)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._course.end(batch, self.model)
        if isinstance(logs, Mapping):  # with parameter servers it is a promise of them
            check_names(logs, _FIGURES, self)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._means = backend.means_in_metrics(self.model)  # which are reset for the validation

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._penalty_of_validation = total(self._sample())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        sample = self._sample()
        figures = {_PENALTY: total(sample)}
        steps = self._steps()
        if "loss" in logs and steps:
            loss = float(logs["loss"])
            means = backend.means_in_metrics(self.model) if self._means is None else self._means
            shares = self._course.shares(steps, self._at_once(), loss, means)
            figures[_LOSS_WITHOUT] = loss - self._course.mean(shares, sample)
        zeros = zero_groups(self.model)
        if zeros is not None and zeros[1]:
            figures[_ZERO_GROUPS] = zeros[0] / zeros[1]
        if "val_loss" in logs:
            without = float(logs["val_loss"]) - self._penalty_of_validation
            figures[f"val_{_LOSS_WITHOUT}"] = without
        add_to_logs(logs, figures, self)

    def _sample(self) -> Sample:
        if self._meter is None or not self._meter.has_weights_of(self.model):
            self._meter = Meter(self.model)
        return self._meter.sample()

    def _at_once(self) -> int:
        at_once = self.model.steps_per_execution
        return 1 if at_once is None else int(tf.convert_to_tensor(at_once))

    def _steps(self) -> int:
        """How many steps the epoch had."""
        planned = (self.params or {}).get("steps")
        return self._course.steps(self._at_once(), planned)
