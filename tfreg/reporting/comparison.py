"""Two reports side by side."""

import dataclasses
import itertools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tfreg.reporting.sections import MULTIPLY_ADDS
from tfreg.reporting.tables import (
    MOST_ROWS,
    Table,
    as_html,
    as_text,
    by_shape,
    count,
    left_out,
    listed,
    part,
    plain,
    ratio,
)

if TYPE_CHECKING:
    from tfreg.reporting.report import Report

TOTALS = ("parameters", "parameters_after", "multiply_adds", "multiply_adds_after")


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Two reports side by side: `before.compare(after)`.

    Printed, it shows what has changed, in at most 100 columns; in a notebook as HTML. Weights,
    penalties and couplings are the same if they have the same paths; what only one report has is
    None in the other.

    Attributes:
        before: the earlier `Report`.
        after: the later one.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
    >>> model.add(keras.layers.Dense(2, name="last"))
    >>> tfreg.couple(model)[0].zero([0])
    >>> comparison = tfreg.report(model).compare(tfreg.report(tfreg.compact(model)))
    >>> comparison.to_dict()["weights"][0]["after"]["shape"]
    [8, 3]
    """

    before: "Report"
    after: "Report"

    def to_dict(self) -> dict[str, Any]:
        """What both reports have, in JSON's types, as `Report.to_dict`.

        Returns:
            A dict with the names of the models under `"models"`; lists under `"weights"`,
            `"penalties"` and `"couplings"` of dicts that have what is compared, and the figures
            `"before"` and `"after"`; and such a dict for each of the `"totals"`.
        """
        return plain(
            {
                "models": {"before": self.before.model, "after": self.after.model},
                "weights": [
                    {"path": path, **_figures(pair, ("shape", "zero_elements"))}
                    for path, pair in self._weights()
                ],
                "penalties": [
                    {
                        "paths": paths,
                        "penalty": penalty,
                        "where": where,
                        **_figures(pair, ("strength", "value", "groups", "zero_groups")),
                    }
                    for (paths, penalty, where), pair in self._penalties()
                ],
                "couplings": [
                    {"paths": paths, **_figures(pair, ("size", "left"))}
                    for paths, pair in self._couplings()
                ],
                "totals": {
                    name: {"before": getattr(self.before, name), "after": getattr(self.after, name)}
                    for name in TOTALS
                },
            }
        )

    def _weights(self) -> Iterator[tuple[Any, "_Pair"]]:
        return _paired(self.before.weights, self.after.weights, lambda each: each.path)

    def _penalties(self) -> Iterator[tuple[Any, "_Pair"]]:
        def key(row: Any) -> Hashable:
            return tuple(row.paths), row.kind, row.where

        return _paired(self.before.penalties, self.after.penalties, key)

    def _couplings(self) -> Iterator[tuple[Any, "_Pair"]]:
        return _paired(self.before.couplings, self.after.couplings, lambda each: tuple(each.paths))

    def __repr__(self) -> str:
        return as_text(self._heading, self._tables())

    def _repr_html_(self) -> str:
        return as_html(self._heading, self._tables())

    @property
    def _heading(self) -> str:
        names = [self.before.model, self.after.model]
        if names[0] == names[1]:
            return f"Two reports of the model {names[0]!r}"
        return f"Reports of the models {names[0]!r}, before, and {names[1]!r}, after"

    def _tables(self) -> list[Table]:
        tables = [
            self._totals_table(),
            _changes(
                "Weights",
                "Their shapes, and how many elements are exactly 0.",
                ["weight"],
                ["shape before", "after", ">zeros before", ">after"],
                [
                    [listed([path]), *_cells(pair, _shape), *_cells(pair, _zero_elements)]
                    for path, pair in self._weights()
                ],
            ),
            _changes(
                "Groups",
                "How many groups of a penalty are exactly 0, of how many.",
                ["weight", "penalty"],
                [">zero before", ">after"],
                [
                    [listed(paths), penalty, *_cells(pair, _zero_groups)]
                    for (paths, penalty, _), pair in self._penalties()
                ],
            ),
            _changes(
                "Couplings",
                "How many entries tfreg.compact would leave, of how many.",
                ["weights"],
                [">left before", ">after"],
                [[listed(paths), *_cells(pair, _left)] for paths, pair in self._couplings()],
            ),
        ]
        return [table for table in tables if table is not None]

    def _totals_table(self) -> Table:
        names = [
            "parameters",
            "parameters that compact leaves",
            "multiply-adds",
            "multiply-adds that compact leaves",
        ]
        rows = []
        for name, field in zip(names, TOTALS):
            before, after = getattr(self.before, field), getattr(self.after, field)
            rows.append([name, count(before), count(after), ratio(after, before)])
        return Table("Totals", MULTIPLY_ADDS, ["", ">before", ">after", ">share"], rows)


# The same thing in both reports; None in one that lacks it.
_Pair = tuple[Any | None, Any | None]


def _paired(
    before: Sequence[Any], after: Sequence[Any], key: Callable[[Any], Any]
) -> Iterator[tuple[Any, _Pair]]:
    """What has the same key; several with one key in their order."""
    found: dict[Any, tuple[list[Any], list[Any]]] = {}
    for place, entries in enumerate((before, after)):
        for entry in entries:
            found.setdefault(key(entry), ([], []))[place].append(entry)
    for known, (earlier, later) in found.items():
        for pair in itertools.zip_longest(earlier, later):
            yield known, pair


def _figures(pair: _Pair, names: Sequence[str]) -> dict[str, Any]:
    each = [None if row is None else {name: getattr(row, name) for name in names} for row in pair]
    return dict(zip(("before", "after"), each))


def _cells(pair: _Pair, shown: Callable[[Any], str]) -> list[str]:
    return ["none" if row is None else shown(row) for row in pair]


def _shape(weight: Any) -> str:
    return by_shape(weight.shape)


def _zero_elements(weight: Any) -> str:
    return count(weight.zero_elements)


def _zero_groups(row: Any) -> str:
    return part(row.zero_groups, row.groups)


def _left(coupling: Any) -> str:
    return part(coupling.left, coupling.size)


def _changes(
    title: str,
    note: str,
    names: Sequence[str],
    figures: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> Table | None:
    """A table of the rows that change: of `names`, and of `figures` before and after by turns."""
    if not rows:
        return None
    start = len(names)
    changed = [row for row in rows if row[start::2] != row[start + 1 :: 2]]
    shown = changed[:MOST_ROWS]
    note += f" {len(changed):,} of {len(rows):,} have changed."
    note += left_out(len(shown), len(changed), "the first")
    return Table(title, note, [*names, *figures], shown)
