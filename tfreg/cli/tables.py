"""Tables on standard output."""


def print_title(title):
    """Prints what the table that follows shows."""
    print(f"\n{title}")


def print_table(alignments, rows, title=None):
    """Prints `rows` in columns, each aligned to the left, "<", or to the right, ">"."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    if title is None:
        print()
    else:
        print_title(title)
    for row in rows:
        cells = [f"{cell:{a}{width}}" for cell, a, width in zip(row, alignments, widths)]
        print("  ".join(cells).rstrip())
