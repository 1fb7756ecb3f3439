"""Tables of figures as text that fits a terminal, and as HTML."""

import dataclasses
import html
import io
import math
from collections.abc import Sequence
from typing import Any

WIDTH = 100
# How many rows a table shows, and how many characters of a path.
MOST_ROWS, LONGEST_PATH = 12, 36


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a `note` on what it shows.

    Args:
        title: what it is called.
        note: what its columns mean.
        heads: the names of the columns. Those that begin with ">" have numbers, on the right.
        rows: as many strings in each.
    """

    title: str
    note: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(heading: str, tables: Sequence[Table]) -> str:
    """The tables one below the other, at most `WIDTH` characters wide."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    file = io.StringIO()
    # Neither the terminal nor a notebook changes what is printed.
    console = Console(
        file=file,
        width=WIDTH,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        force_interactive=False,
        legacy_windows=False,
    )
    console.print(Text(heading))
    for table in tables:
        console.print()
        console.print(Text(table.title))
        console.print(Padding(Text(table.note), (0, 0, 0, 2)))
        if table.rows:
            console.print(Padding(_drawn(table), (0, 0, 0, 2)))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _drawn(table: Table) -> Any:
    import rich.table
    from rich.text import Text

    drawn = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in table.heads:
        is_number = head.startswith(">")
        # What does not fit goes on in the next line.
        drawn.add_column(
            Text(head.removeprefix(">")), justify="right" if is_number else "left", overflow="fold"
        )
    for row in table.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def as_html(heading: str, tables: Sequence[Table]) -> str:
    """The tables for a notebook."""
    parts = [f"<h3>{html.escape(heading)}</h3>"]
    for table in tables:
        parts += [f"<h4>{html.escape(table.title)}</h4>", f"<p>{html.escape(table.note)}</p>"]
        if table.rows:
            sides = ["right" if head.startswith(">") else "left" for head in table.heads]
            heads = [head.removeprefix(">") for head in table.heads]
            rows = [_html_row("th", heads, sides)]
            rows += [_html_row("td", row, sides) for row in table.rows]
            parts.append(f"<table>{''.join(rows)}</table>")
    return "\n".join(parts)


def _html_row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    made = [
        f'<{tag} style="text-align: {side}">{html.escape(cell)}</{tag}>'
        for cell, side in zip(cells, sides)
    ]
    return f"<tr>{''.join(made)}</tr>"


def shortened(text: str, longest: int = LONGEST_PATH) -> str:
    """`text` without its middle, if it is longer."""
    if len(text) <= longest:
        return text
    behind = (longest - 3) * 2 // 3  # where names differ
    return f"{text[: longest - 3 - behind]}...{text[-behind:]}"


def listed(paths: Sequence[str], longest: int = LONGEST_PATH) -> str:
    """The first of several paths, and how many more there are."""
    if not paths:
        return "not built"
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return shortened(paths[0], longest) + more


def number(value: float | None) -> str:
    """A number of any size in few characters."""
    return "-" if value is None else f"{value:.4g}"


def count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def share(value: float) -> str:
    return f"{value:.1%}"


def part(some: int | None, total: int | None) -> str:
    """So many of so many."""
    return "-" if total is None else f"{count(some)} / {count(total)}"


def by_shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def ratio(after: float | None, before: float | None) -> str:
    return share(after / before) if after is not None and before else "-"


def left_out(shown: int, total: int, which: str) -> str:
    """The sentence on how many rows a table has, and `which`, if some are left out."""
    return "" if shown == total else f" Shown are {shown} of {total:,}, {which}."


def plain(value: Any) -> Any:
    """`value` in JSON's types: a number that is not finite is the string that `float` reads."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
