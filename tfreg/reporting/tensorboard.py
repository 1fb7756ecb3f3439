"""TensorBoard: shows there what the penalties do to the weights."""

import collections
import itertools
import math
import os
from typing import Any

import tensorflow as tf

from tfreg import backend
from tfreg.checks import is_int
from tfreg.model.contents import Contents
from tfreg.reporting.penalized import ReportedPenalty, reported_penalties
from tfreg.reporting.report import report
from tfreg.reporting.summaries import Summaries
from tfreg.reporting.zeros import zero_groups


class TensorBoard(backend.Callback):
    """Writes what the penalties do, for TensorBoard.

    At the end of an epoch, with its number as the step, it writes

    - `penalty`, the sum of the penalties in the loss, and `penalty/<path>` for each weight;
    - `zero_groups`, the share of groups that is exactly 0, and `zero_groups/<path>`; of elements
      where there are no groups;
    - `strength/<path>`: the penalty's factor, times what its schedule gives;
    - `norms/<path>`: a histogram of the norms of its groups, or of the magnitudes of its elements,
      with at most 131072 of them, evenly picked;
    - `kernels/<path>`: pictures of the largest weights. Rows are inputs, columns are units, tiles
      are the windows of convolutions; blue is negative, vermillion positive, and grey exactly 0,
      as in `tfreg.plot_weights`. What has no room in 512 pixels along a side has evenly picked
      rows and columns.

    Before the first epoch and at the end of training it writes `tfreg.report(model)` as the text
    `report`. A penalty that ties several weights goes by the first of them, and a further one on
    the same weight has a number. Those of `tfreg.Proximal` are in no loss, and so not in `penalty`.

    It writes a file of its own, also beside Keras's callback with the same `log_dir`. Of several
    workers only the chief writes. On a CPU it takes about as long as a train step.

    Args:
        log_dir: the folder for the file, a string that is not empty or a path.
        every: how many epochs apart it writes, an int >= 1. The first epoch of a `fit` is written,
            whichever number `initial_epoch` gives it.
        images: how many weights, of two axes or more, it draws, an int >= 0.

    Raises:
        ModuleNotFoundError: without the package tensorboard.
        TypeError, ValueError: for other arguments.
        OSError: before training, if no file can be written there.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> layer = keras.layers.Dense(1, kernel_regularizer=tfreg.GroupLasso(0.1))
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> model.compile("sgd", "mse")
    >>> board = tfreg.callbacks.TensorBoard(folder)
    >>> _ = model.fit(tf.ones([4, 2]), tf.ones([4, 1]), callbacks=[board], verbose=0)
    >>> len(list(folder.glob("events.out.tfevents.*")))
    1
    """

    def __init__(self, log_dir: str | os.PathLike[str], every: int = 1, images: int = 8) -> None:
        super().__init__()
        self.log_dir = _checked_folder(log_dir)
        if not is_int(every) or every < 1:
            raise ValueError(f"Argument `every` must be an int >= 1. Received: every={every!r}")
        self.every = int(every)
        if not is_int(images) or images < 0:
            raise ValueError(f"Argument `images` must be an int >= 0. Received: images={images!r}")
        self.images = int(images)
        self._summaries = Summaries()
        self._writer: Any = None
        self._first_epoch: int | None = None
        self._next_epoch = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._close()  # of a fit that failed
        self._summaries, self._first_epoch, self._next_epoch = Summaries(), None, 0
        self._open()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._first_epoch is None:
            self._first_epoch = epoch
            if self.model.built:  # tf_keras may build it in the first step
                self._write_report(epoch)
        self._next_epoch = epoch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch - (self._first_epoch or 0)) % self.every:
            return
        rows = [row for row in reported_penalties(self.model, 0.0) if row.paths]
        for name, row in zip(_names(rows), rows):
            self._add_penalty(name, row)
        in_the_loss = [row.value for row in rows if row.where != "optimizer"]
        known = [value for value in in_the_loss if value is not None]
        if len(known) == len(in_the_loss):
            self._summaries.add_scalar("penalty", sum(known))
        zeros = zero_groups(self.model)
        if zeros is not None and zeros[1]:
            self._summaries.add_scalar("zero_groups", zeros[0] / zeros[1])
        for path, variable in self._largest(rows):
            self._summaries.add_image(f"kernels/{path}", backend.array_of(variable))
        self._write(epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._write_report(self._next_epoch)
        self._close()

    def _add_penalty(self, name: str, row: ReportedPenalty) -> None:
        if row.value is not None:
            self._summaries.add_scalar(f"penalty/{name}", row.value)
        zero, total = row.zero_groups, row.groups
        if zero is None or total is None:
            zero, total = row.zero_elements, row.elements
        if total:
            self._summaries.add_scalar(f"zero_groups/{name}", zero / total)
        if row.strength is not None:
            self._summaries.add_scalar(f"strength/{name}", row.strength)
        self._summaries.add_histogram(f"norms/{name}", row.norms)

    def _largest(self, rows: list[ReportedPenalty]) -> list[tuple[str, Any]]:
        """The largest of the penalized weights that are drawn, with their paths."""
        penalized = set(itertools.chain.from_iterable(row.paths for row in rows))
        found = [
            (weight.path, weight.variable)
            for weight in Contents(self.model).weights
            if weight.path in penalized and _is_drawn(weight.variable)
        ]
        found.sort(key=lambda pair: -math.prod(pair[1].shape))
        return found[: self.images]

    def _write_report(self, step: int) -> None:
        self._summaries.add_text("report", f"```\n{report(self.model)}\n```")
        self._write(step)

    def _write(self, step: int) -> None:
        summary = self._summaries.taken()
        self._open()
        if self._writer is None:
            return
        # Keras's callback may have switched off what it does not write itself.
        with self._writer.as_default(), tf.summary.record_if(True):
            tf.summary.experimental.write_raw_pb(summary, step=step)
        self._writer.flush()

    def _open(self) -> None:
        # Reading some variables takes all workers: all read them, and the chief writes.
        if self._writer is None and self.model.distribute_strategy.extended.should_save_summary:
            self._writer = _writer_in(self.log_dir)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _checked_folder(log_dir: Any) -> str:
    path = os.fspath(log_dir) if isinstance(log_dir, os.PathLike) else log_dir
    if not isinstance(path, str):
        raise TypeError(
            f"Argument `log_dir` must be a string or a path. Received: log_dir={log_dir!r}"
        )
    if not path:
        raise ValueError(f"Argument `log_dir` must not be empty. Received: log_dir={log_dir!r}")
    return path


def _writer_in(folder: str) -> Any:
    try:
        return tf.summary.create_file_writer(folder)
    except tf.errors.OpError as error:
        raise OSError(
            "Argument `log_dir` must be a folder that can be written to. "
            f"Received: log_dir={folder!r}, where TensorFlow says: {error.message}"
        ) from error


def _is_drawn(variable: Any) -> bool:
    return len(variable.shape) >= 2 and math.prod(variable.shape) > 0


def _names(rows: list[ReportedPenalty]) -> list[str]:
    """What each penalty is told apart by."""
    seen: collections.Counter[str] = collections.Counter()
    names = []
    for row in rows:
        others = len(row.paths) - 1
        name = f"{row.paths[0]} and {others} more" if others else row.paths[0]
        seen[name] += 1
        names.append(f"{name} ({seen[name]})" if seen[name] > 1 else name)
    return names
