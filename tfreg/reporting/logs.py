"""The figures that callbacks add to the logs of an epoch."""

from collections.abc import Mapping
from typing import Any


def add_to_logs(logs: dict[str, Any], figures: Mapping[str, float], callback: Any) -> None:
    """Adds the `figures` of a `callback` to `logs`.

    Raises:
        ValueError: if a name is there already.
    """
    for name, figure in figures.items():
        if name in logs:
            raise ValueError(
                f"{type(callback).__name__} adds {name!r} to the logs, where a metric or a "
                "callback has that name already. Give the metric another one."
            )
        logs[name] = figure
