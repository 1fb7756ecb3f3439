"""Tables on standard output."""


def print_table(alignments, rows):
    """Prints `rows` in columns, each aligned to the left, "<", or to the right, ">"."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    print()
    for row in rows:
        cells = [f"{cell:{a}{width}}" for cell, a, width in zip(row, alignments, widths)]
        print("  ".join(cells).rstrip())
