"""Callbacks that show what the penalties of a model do."""

from typing import Any

from tfreg import backend
from tfreg.model.attached import total_value
from tfreg.reporting.logs import add_to_logs


class PenaltyMetrics(backend.Callback):
    """Adds the penalties on a model's weights to the logs of each epoch.

    `penalty = sum_k penalty_k(w)` at the end of the epoch

    With validation data, `val_loss_without_penalty` is the validation loss minus the penalties at
    the weights that were validated. `History`, the progress line and `CSVLogger` show both figures.
    List it before callbacks that read them, such as
    `EarlyStopping(monitor="val_loss_without_penalty", mode="min")`, and before those that swap
    weights for validation.

    Penalties from layers' arguments and from `tfreg.add_penalty` count, and so do Keras's own
    regularizers of weights. Activity regularizers do not.

    Raises:
        ValueError: at the end of an epoch, if the model has a metric named as one of the figures.

    Example:

    >>> layer = keras.layers.Dense(1, kernel_regularizer=tfreg.GroupLasso(0.1))
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> model.compile("sgd", "mse")
    >>> metrics = tfreg.callbacks.PenaltyMetrics()
    >>> history = model.fit(tf.ones([4, 2]), tf.ones([4, 1]), callbacks=[metrics], verbose=0)
    >>> sorted(history.history)
    ['loss', 'penalty']
    """

    def __init__(self) -> None:
        super().__init__()
        self._penalty_of_validation = 0.0

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._penalty_of_validation = float(total_value(self.model))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        figures = {"penalty": float(total_value(self.model))}
        if "val_loss" in logs:
            without = float(logs["val_loss"]) - self._penalty_of_validation
            figures["val_loss_without_penalty"] = without
        add_to_logs(logs, figures, self)
