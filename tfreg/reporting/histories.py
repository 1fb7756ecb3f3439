"""The figures of a training by name, with their epochs."""

import csv
import dataclasses
import numbers
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

VALIDATION = "val_"
Frequency: TypeAlias = int | Sequence[int] | None


class Curve(NamedTuple):
    name: str
    epochs: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Figures:
    """Lists of figures by name, None where one is missing.

    The longest have one for each of the `count` epochs. `epochs` are these as `fit` counts them,
    from 1.
    """

    columns: dict[str, list[float | None]]
    epochs: np.ndarray
    count: int

    def curve(self, name: str, validation_freq: Frequency) -> Curve:
        """The figures of that name.

        Raises:
            ValueError: if it is not clear which epochs they are of.
        """
        values = self.columns[name]
        is_known = len(self.epochs) == self.count
        goes_on = is_known and (np.diff(self.epochs) > 0).all()
        epochs = self.epochs if goes_on else np.arange(self.count) + 1
        if len(values) == self.count:
            places = np.arange(self.count)
        elif not is_known:
            raise ValueError(
                "Argument `history` must know as many epochs as figures where a list has no figure "
                f"for each. Received: {len(self.epochs)} epochs, {self.count} figures, and "
                f"{len(values)} of {name!r}"
            )
        else:
            places = self._places(name, validation_freq)
        is_there = np.array([value is not None for value in values], bool)
        if name.startswith(VALIDATION) and is_known and validation_freq is not None:
            self._check(name, places[is_there], validation_freq)
        finite = np.array([value for value in values if value is not None], float)
        return Curve(name, epochs[places][is_there], finite)

    def _places(self, name: str, validation_freq: Frequency) -> np.ndarray:
        """Which epochs have the figures of a list that is shorter than the others."""
        count = len(self.columns[name])
        if validation_freq is not None:
            places = np.flatnonzero(_is_of(self.epochs, validation_freq))
            if len(places) != count:
                raise self._is_another(name, validation_freq)
            return places
        fitting: set[tuple[int, ...]] = set()
        for every in range(2, int(self.epochs.max()) + 1):
            places = np.flatnonzero(_is_of(self.epochs, every))
            if len(places) == count:
                fitting.add(tuple(places.tolist()))
            if len(fitting) > 1:
                break
        if len(fitting) != 1:
            raise ValueError(
                "Argument `history` must have a figure for each epoch, or for epochs that are "
                "known. Pass `validation_freq`, as it was given to `fit`. "
                f"Received: {count} figures of {name!r} for {self.count} epochs"
            )
        return np.array(fitting.pop())

    def _check(self, name: str, places: np.ndarray, validation_freq: Frequency) -> None:
        if not _is_of(self.epochs, validation_freq)[places].all():
            raise self._is_another(name, validation_freq)

    def _is_another(self, name: str, validation_freq: Frequency) -> ValueError:
        given = [value for value in self.columns[name] if value is not None]
        return ValueError(
            "Argument `validation_freq` must be what `fit` was given. "
            f"Received: validation_freq={validation_freq!r}, which is "
            f"{np.count_nonzero(_is_of(self.epochs, validation_freq))} of {self.count} epochs, "
            f"and {len(given)} figures of {name!r}"
        )


def _is_of(epochs: np.ndarray, frequency: Any) -> np.ndarray:
    if isinstance(frequency, numbers.Integral):
        return epochs % int(frequency) == 0
    return np.isin(epochs, list(frequency))


def check_frequency(validation_freq: Any) -> None:
    """Raises a `ValueError` if `fit` would not take it."""
    is_list = isinstance(validation_freq, (list, tuple)) and len(validation_freq) > 0
    given = validation_freq if is_list else [validation_freq]
    if validation_freq is not None and not all(map(_is_epoch, given)):
        raise ValueError(
            "Argument `validation_freq` must be None, a positive integer or a list of these, which "
            f"are epochs. Received: validation_freq={validation_freq!r}"
        )


def _is_epoch(number: Any) -> bool:
    return isinstance(number, numbers.Integral) and not isinstance(number, bool) and int(number) > 0


def figures_of(history: Any) -> Figures:
    """The figures of what `fit` returns, of a dict or of a file.

    Raises:
        TypeError: for any other `history`.
        ValueError: if it has no figures.
    """
    if isinstance(history, (str, os.PathLike)):
        columns = _read(pathlib.Path(history))
        epochs: Any = columns.pop("epoch", None)
    else:
        columns = getattr(history, "history", history)
        if not isinstance(columns, dict):
            raise TypeError(
                "Argument `history` must be what `fit` returns, a dict of lists, or the path of "
                f"a CSV file. Received: {history!r}"
            )
        columns = {str(name): _numbers(values) for name, values in columns.items()}
        epochs = columns.pop("epoch", getattr(history, "epoch", None))
    known = {name: values for name, values in columns.items() if _has_any(values)}
    count = max(map(len, known.values()), default=0)
    if not count:
        raise ValueError(
            f"Argument `history` must have figures of at least one epoch. Received: {history!r}"
        )
    if epochs is None or None in epochs:
        epochs = range(count)
    return Figures(known, np.array(epochs, float) + 1, count)


def _has_any(values: list[float | None] | None) -> bool:
    return values is not None and any(value is not None for value in values)


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The columns of a CSV file."""
    try:
        with path.open(newline="") as file:
            header = file.readline()
            file.seek(0)
            separator = max(",;\t|", key=header.count)
            rows = list(csv.DictReader(file, delimiter=separator))
    except (IsADirectoryError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            "Argument `history` must be what `fit` returns, a dict of lists, or the path of "
            f"a CSV file. Received: history={str(path)!r}"
        ) from error
    names = [name for name in (rows[0] if rows else {}) if name]
    return {name: _numbers([row[name] for row in rows]) for name in names}


def _numbers(values: Any) -> list[float | None] | None:
    """`values` as floats, None where one is missing; None if they are no numbers."""
    figures: list[float | None] = []
    try:
        for value in values:
            is_missing = value is None or (isinstance(value, str) and value in ("", "NA"))
            figures.append(None if is_missing else float(value))
    except (TypeError, ValueError):  # a metric may be an array
        return None
    return figures
