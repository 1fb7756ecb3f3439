"""What an argument must be, wherever it is one."""

import math
import numbers


def is_int(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(name, value, expected, accept=math.isfinite):
    """`value` as a float if it is a real number that `accept` holds for."""
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


def check_non_negative(name, value):
    return check_number(name, value, "a finite number >= 0", lambda number: number >= 0)


def check_bool(name, value):
    if not isinstance(value, bool):
        raise TypeError(f"Argument `{name}` must be a bool. Received: {name}={value!r}")
    return value


def check_config(what, config, keys, optional=()):
    """`config` if it is a dict with these keys and no others but `optional` ones."""
    if not isinstance(config, dict) or not set(keys) <= set(config) <= {*keys, *optional}:
        raise ValueError(
            f"The config of {what} must be a dict with the keys {[*keys]}"
            + (f" and, optionally, {[*optional]}" if optional else "")
            + f". Received: {config!r}"
        )
    return config
