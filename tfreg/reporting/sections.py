"""The tables that a report is printed as."""

from typing import TYPE_CHECKING

import numpy as np

from tfreg.reporting.penalized import ReportedPenalty
from tfreg.reporting.tables import (
    MOST_ROWS,
    Table,
    count,
    left_out,
    listed,
    number,
    part,
    ratio,
    share,
    shortened,
)
from tfreg.reporting.totals import ReportedCoupling

if TYPE_CHECKING:
    from tfreg.reporting.report import Report

MULTIPLY_ADDS = (
    "A multiply-add is a multiplication of a weight for one example. Biases, normalizations, "
    "activations and products of activations are not counted."
)
_UNKNOWN, _NOT_BUILT = "unknown step", "not built"
_LONGEST_PENALTY, _LONGEST_REASON = 200, 500


def sections(report: "Report") -> list[Table]:
    """The tables of a `Report`, without those that would be empty."""
    tables = [_totals(report)]
    if report.penalties:
        tables += [_penalties(report), _weights(report)]
    if report.budgets:
        tables.append(_budgets(report))
    if report.couplings:
        tables.append(_couplings(report))
    if report.unfollowed:
        tables.append(_unfollowed(report))
    for title, what, reason in (
        ("Not followed", "Couplings and multiply-adds are not known.", report.not_followed),
        ("After compact", "What tfreg.compact would leave is not known:", report.not_cut),
    ):
        if reason is not None:
            why = shortened(" ".join(reason.split()), _LONGEST_REASON)
            tables.append(Table(title, f"{what} {why}", [], []))
    return tables


def _totals(report: "Report") -> Table:
    note = f"The model now, and what tfreg.compact would leave. {MULTIPLY_ADDS}"
    if report.not_counted:
        note += (
            f" Unknown, and not counted, are those of {len(report.not_counted):,} weights: "
            f"{listed(report.not_counted)}."
        )
    if report.unknown_lengths:
        note += (
            " Axes of unknown length count as one position, which is so for "
            f"{len(report.unknown_lengths):,} weights: {listed(report.unknown_lengths)}."
        )
    if not report.is_built:
        note += " Regularizers of layers that are not built are not known."
    elif not report.penalties and not report.budgets:
        note += " Nothing is penalized."
    rows = [
        [name.replace("_", "-"), count(now), count(after), ratio(after, now)]
        for name in ("parameters", "multiply_adds")
        for now, after in [(getattr(report, name), getattr(report, f"{name}_after"))]
    ]
    return Table("Totals", note, ["", ">now", ">after compact", ">share"], rows)


def _penalties(report: "Report") -> Table:
    """A row for what is alike."""
    alike: dict[tuple[str, ...], list[ReportedPenalty]] = {}
    for row in report.penalties:
        key = (_without_coupling(row), row.where, _strength(row))
        alike.setdefault(key, []).append(row)
    ordered = sorted(alike.items(), key=lambda item: -sum(abs(row.share) for row in item[1]))
    rows = [
        [
            shortened(penalty, _LONGEST_PENALTY),
            where,
            strength,
            count(len({path for row in same for path in row.paths})),
            _value(same),
            share(sum(row.share for row in same)),
        ]
        for (penalty, where, strength), same in ordered[:MOST_ROWS]
    ]
    note = (
        "Strengths and values are those at the present step, frozen weights left out. Those in an "
        "optimizer are in no loss, and count in the shares."
    )
    if any(row.value is None and row.paths for row in report.penalties):
        note += (
            " Strength and value are unknown before the model is compiled, if a schedule counts "
            "its steps."
        )
    note += left_out(len(rows), len(ordered), "the largest")
    heads = ["penalty", "in", ">strength", ">weights", ">value", ">share"]
    return Table("Penalties", note, heads, rows)


def _without_coupling(row: ReportedPenalty) -> str:
    """What is printed of the penalty of a coupling without what is that coupling's."""
    return row.penalty if row.of_entries is None else f"{row.of_entries}, over couplings"


def _strength(row: ReportedPenalty) -> str:
    return _unknown(row) if row.value is None else number(row.strength)


def _value(rows: list[ReportedPenalty]) -> str:
    values = [row.value for row in rows if row.value is not None]
    return number(sum(values)) if values else _unknown(rows[0])


def _unknown(row: ReportedPenalty) -> str:
    return _UNKNOWN if row.paths else _NOT_BUILT


def _weights(report: "Report") -> Table:
    ordered = sorted(report.penalties, key=lambda row: -abs(row.share))
    rows = [
        [
            listed(row.paths),
            row.kind,
            _value([row]),
            share(row.share),
            ratio(row.zero_elements, row.elements),
            part(row.zero_groups, row.groups),
            count(row.small_groups),
        ]
        for row in ordered[:MOST_ROWS]
    ]
    note = (
        "Zero is exactly 0. Small groups have a norm of at most "
        f"{report.tolerance:g} times the largest of the row, zeros included."
    )
    note += left_out(len(rows), len(ordered), "those with the largest values")
    heads = ["weight", "penalty", ">value", ">share", ">zero elements", ">zero groups", ">small"]
    return Table("Penalized weights", note, heads, rows)


def _budgets(report: "Report") -> Table:
    rows = [
        [
            each.resource.replace("_", "-"),
            count(each.left),
            count(each.target),
            count(each.total),
            ratio(each.left, each.total),
            ratio(each.target, each.total),
        ]
        for each in report.budgets
    ]
    note = "What is left of what a tfreg.Budget bounds. Of a pattern, in the fullest of its runs."
    heads = ["resource", ">left", ">target", ">at first", ">left", ">target"]
    return Table("Budgets", note, heads, rows)


def _couplings(report: "Report") -> Table:
    ordered = sorted(report.couplings, key=lambda each: (_left(each) - each.size, -each.size))
    rows = [_coupling_row(each) for each in ordered[:MOST_ROWS]]
    note = "Entries live and die together. Norms are over all weights of an entry."
    if report.not_cut is None:
        entries, left = sum(each.size for each in ordered), sum(map(_left, ordered))
        note = (
            f"Entries live and die together; tfreg.compact leaves {left:,} of {entries:,}. Norms "
            "are over all weights of an entry."
        )
    note += left_out(len(rows), len(ordered), "those that lose most")
    heads = ["weights", ">entries left", ">least norm", ">median", ">largest"]
    return Table("Couplings", note, heads, rows)


def _left(coupling: ReportedCoupling) -> int:
    return coupling.size if coupling.left is None else coupling.left


def _coupling_row(coupling: ReportedCoupling) -> list[str]:
    norms = coupling.norms
    figures = [number(float(each)) for each in (norms.min(), np.median(norms), norms.max())]
    return [listed(coupling.paths), part(coupling.left, coupling.size), *figures]


def _unfollowed(report: "Report") -> Table:
    ordered = sorted(report.unfollowed, key=lambda each: -len(each.paths))
    rows = [
        [shortened(each.reason, _LONGEST_PENALTY), count(len(each.paths)), listed(each.paths)]
        for each in ordered[:MOST_ROWS]
    ]
    note = "tfreg.compact keeps entries of these weights along an axis, zero or not."
    note += left_out(len(rows), len(ordered), "those of most weights")
    return Table("Cannot be cut", note, ["because", ">weights", "which"], rows)
