"""Callbacks that show what the penalties of a model do."""

from typing import Any

from tfreg import backend
from tfreg.model.attached import total_value


class PenaltyMetrics(backend.Callback):
    """Adds the penalties on a model's weights, and the losses without them, to each epoch's logs.

    `penalty = sum_k penalty_k(w)` at the end of the epoch

    The other figures are `loss_without_penalty` and, with validation data,
    `val_loss_without_penalty`: the loss minus `penalty`. Keras validates at the end of the epoch,
    so that this one is exact. The training loss is the mean over the epoch, in which the penalty
    may have changed.

    `History`, the progress line, `CSVLogger` and all callbacks that stand behind this one, such as
    `EarlyStopping(monitor="val_loss_without_penalty", mode="min")`, see the figures. Penalties from
    layers' arguments and from `tfreg.add_penalty` count, and regularizers of Keras. Activity
    regularizers do not.

    Example:

    >>> layer = keras.layers.Dense(1, kernel_regularizer=tfreg.GroupLasso(0.1))
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> model.compile("sgd", "mse")
    >>> metrics = tfreg.callbacks.PenaltyMetrics()
    >>> history = model.fit(tf.ones([4, 2]), tf.ones([4, 1]), callbacks=[metrics], verbose=0)
    >>> sorted(history.history)
    ['loss', 'loss_without_penalty', 'penalty']
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is None:
            return
        logs["penalty"] = float(total_value(self.model))
        for name in ("loss", "val_loss"):
            if name in logs:
                logs[f"{name}_without_penalty"] = float(logs[name]) - logs["penalty"]
