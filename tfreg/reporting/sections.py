"""The tables that a report is printed as."""

import re
from typing import Any

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

MULTIPLY_ADDS = (
    "A multiply-add is a multiplication of a weight for one example. Biases, normalizations, "
    "activations and products of activations are not counted."
)
_COUPLED = re.compile(r"Coupled\((.*), \d+ entries of \d+ weights.*\)")
_UNKNOWN, _NOT_BUILT = "unknown step", "not built"
_LONGEST_PENALTY = 200


def sections(report: Any) -> list[Table]:
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
    return tables


def _totals(report: Any) -> Table:
    note = f"The model now, and what tfreg.compact would leave. {MULTIPLY_ADDS}"
    if report.not_counted:
        note += (
            f" Unknown, and not counted, are those of {len(report.not_counted):,} weights: "
            f"{listed(report.not_counted)}."
        )
    if not report.penalties:
        note += " Nothing is penalized."
    rows = [
        [name.replace("_", "-"), count(now), count(after), ratio(after, now)]
        for name in ("parameters", "multiply_adds")
        for now, after in [(getattr(report, name), getattr(report, f"{name}_after"))]
    ]
    return Table("Totals", note, ["", ">now", ">after compact", ">share"], rows)


def _penalties(report: Any) -> Table:
    """A row for what is alike."""
    alike: dict[tuple[str, ...], list[ReportedPenalty]] = {}
    for row in report.penalties:
        key = (_without_coupling(row.penalty), row.where, _strength(row))
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
        note += " Where the step that a schedule counts is not known, nothing is."
    note += left_out(len(rows), len(ordered), "the largest")
    heads = ["penalty", "in", ">strength", ">weights", ">value", ">share"]
    return Table("Penalties", note, heads, rows)


def _without_coupling(penalty: str) -> str:
    """What is printed of the penalty of a coupling without what is that coupling's."""
    found = _COUPLED.fullmatch(penalty)
    return penalty if found is None else f"{found[1]}, over couplings"


def _strength(row: ReportedPenalty) -> str:
    return _unknown(row) if row.value is None else number(row.strength)


def _value(rows: list[ReportedPenalty]) -> str:
    values = [row.value for row in rows if row.value is not None]
    return number(sum(values)) if values else _unknown(rows[0])


def _unknown(row: ReportedPenalty) -> str:
    return _UNKNOWN if row.paths else _NOT_BUILT


def _weights(report: Any) -> Table:
    ordered = sorted(report.penalties, key=lambda row: -abs(row.share))
    rows = [
        [
            listed(row.paths),
            name_of(row.penalty),
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


def name_of(penalty: str) -> str:
    """The class of a penalty, of one that ties weights that of the penalty in it."""
    return re.sub(r"^(Joint|Coupled)\(", "", penalty).partition("(")[0]


def _budgets(report: Any) -> Table:
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


def _couplings(report: Any) -> Table:
    ordered = sorted(report.couplings, key=lambda each: (each.left - each.size, -each.size))
    rows = [_coupling_row(each) for each in ordered[:MOST_ROWS]]
    entries = sum(each.size for each in report.couplings)
    left = sum(each.left for each in report.couplings)
    note = (
        f"Entries live and die together; tfreg.compact leaves {left:,} of {entries:,}. Norms are "
        "over all weights of an entry."
    )
    note += left_out(len(rows), len(ordered), "those that lose most")
    heads = ["weights", ">entries left", ">least norm", ">median", ">largest"]
    return Table("Couplings", note, heads, rows)


def _coupling_row(coupling: ReportedCoupling) -> list[str]:
    norms = coupling.norms
    figures = [number(float(each)) for each in (norms.min(), np.median(norms), norms.max())]
    return [listed(coupling.paths), part(coupling.left, coupling.size), *figures]


def _unfollowed(report: Any) -> Table:
    ordered = sorted(report.unfollowed, key=lambda each: -len(each.paths))
    rows = [
        [shortened(each.reason, _LONGEST_PENALTY), count(len(each.paths)), listed(each.paths)]
        for each in ordered[:MOST_ROWS]
    ]
    note = "Entries of these weights stay whatever they hold."
    note += left_out(len(rows), len(ordered), "those of most weights")
    return Table("Not free", note, ["because", ">weights", "which"], rows)
