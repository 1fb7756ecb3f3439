"""The figures that callbacks add to the logs of an epoch."""

from collections.abc import Iterable, Mapping
from typing import Any


def add_to_logs(logs: dict[str, Any], figures: Mapping[str, float], callback: Any) -> None:
    """Adds the `figures` of a `callback` to `logs`.

    Raises:
        ValueError: if a name is there already.
    """
    check_names(logs, figures, callback)
    logs.update(figures)


def check_names(logs: Mapping[str, Any], names: Iterable[str], callback: Any) -> None:
    """Raises a ValueError if one of the names that a `callback` adds is in `logs` already."""
    for name in names:
        if name in logs:
            raise ValueError(
                f"{type(callback).__name__} adds {name!r} to the logs, where a metric or a "
                "callback has that name already. Give the metric another one, and list the "
                "callback once."
            )
