"""Checks of arguments: each returns the value, or raises an error that names the argument."""

import difflib
import inspect
import math
import numbers
import sys
import types
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeGuard

import numpy as np

FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127
FLOAT32_TINY = 2.0**-126


def is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def shown(value: object) -> str:
    """`repr(value)`, of a long list without its middle."""
    if not isinstance(value, list):
        return repr(value)
    entries = list(map(shown, value if len(value) <= 20 else value[:10]))
    more = [f"... {len(value)} in all"] if len(value) > 20 else []
    return f"[{', '.join(entries + more)}]"


def check_number(
    name: str, value: object, expected: str, accept: Callable[[float], bool] = math.isfinite
) -> float:
    """Returns `value` as a float if it is a finite number that `accept` holds for."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and accept(number):
            return number
        error: type[Exception] = ValueError
    else:
        error = TypeError
    raise error(f"Argument `{name}` must be {expected}. Received: {name}={value!r}")


def check_int(name: str, value: object, least: int) -> int:
    if not (is_int(value) and value >= least):
        raise ValueError(f"Argument `{name}` must be an int >= {least}. Received: {name}={value!r}")
    return int(value)


def check_non_negative(name: str, value: object) -> float:
    return check_number(name, value, "a finite number >= 0", lambda number: number >= 0)


def check_positive(name: str, value: object) -> float:
    """Returns `value` as a float, if it is finite and not 0 in float32 either."""
    expected = "a finite number > 0, in float32 too"
    return check_number(name, value, expected, lambda n: FLOAT32_TINY <= n <= FLOAT32_MAX)


def check_array(name: str, value: object, least: float = -math.inf) -> float | np.ndarray:
    """Returns `value` as a float or a float64 array.

    Its numbers must be >= `least`, and finite in float32 too.
    """
    expected = "a finite number" if least == -math.inf else f"a finite number >= {least:g}"
    expected += ", in float32 too, or an array of those"
    if isinstance(value, numbers.Number):
        return check_number(name, value, expected, lambda n: least <= n and abs(n) <= FLOAT32_MAX)
    received = f"Argument `{name}` must be {expected}. Received: {name}={shown(value)}"
    try:
        # NumPy takes True and "1" for numbers.
        if not _is_of_numbers(value):
            raise TypeError(received)
        array = np.array(value, np.float64)
    except OverflowError as error:
        raise ValueError(received) from error
    except (TypeError, ValueError) as error:
        raise TypeError(received) from error
    is_good = (np.abs(array) <= FLOAT32_MAX) & (array >= least)
    if not is_good.all():
        raise ValueError(f"{received}, with {array[~is_good][0]}")
    return array


def _is_of_numbers(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_of_numbers, value))
    if isinstance(value, numbers.Number):
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    return np.asarray(value).dtype.kind in "iufV"  # V for bfloat16


def broadcasts_to(shape: Sequence[int], weight_shape: Sequence[int | None]) -> bool:
    """Whether an array of `shape` broadcasts to `weight_shape`, whose lengths may be None."""
    aligned = zip(reversed(shape), reversed(weight_shape))
    return len(shape) <= len(weight_shape) and all(
        size == 1 or length is None or size == length for size, length in aligned
    )


def check_strength(name: str, value: object) -> float:
    """Like `check_non_negative`, within float32: in a kernel, infinity times 0 is NaN."""
    expected = "a finite number >= 0, in float32 too"
    return check_number(name, value, expected, lambda number: 0 <= number <= FLOAT32_MAX)


def check_bool(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"Argument `{name}` must be a bool. Received: {name}={value!r}")
    return value


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a message about an unknown `name`: the `known` names that resemble it."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=cutoff)
    return f". Nearest: {near}" if near else ""


def warn_deprecated(use: str, instead: str) -> None:
    """Warns the caller of tfreg that a `use` will stop working, and says what to do `instead`."""
    frame: types.FrameType | None = sys._getframe()
    stack_level = 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("tfreg."):
        frame, stack_level = frame.f_back, stack_level + 1
    # Python shows a DeprecationWarning only if `__main__` triggers it.
    message = f"{use}: a later release of tfreg will not accept it. {instead}."
    warnings.warn(message, FutureWarning, stacklevel=stack_level)


def check_arguments(cls: type, config: Any) -> dict[str, Any]:
    """Returns `config` if it is a dict of arguments of `cls`, with every required one."""
    parameters = inspect.signature(cls).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    needed = [p.name for p in named if p.default is p.empty]
    optional = [p.name for p in named if p.name not in needed]
    takes_any = len(named) < len(parameters)
    return check_config(cls.__name__, config, needed, config if takes_any else optional)


def check_config(
    what: str, config: Any, keys: Collection[str], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Returns `config` if it is a dict with all `keys`, and no others but `optional` ones."""
    if not isinstance(config, dict):
        raise TypeError(f"The config of {what} must be a dict. Received: {config!r}")
    if not set(keys) <= set(config) <= {*keys, *optional}:
        needed = f"the keys {[*keys]}, and " if keys else ""
        raise ValueError(
            f"The config of {what} must have {needed}no keys but {[*keys, *optional]}. "
            f"Received: {config!r}"
        )
    return config
