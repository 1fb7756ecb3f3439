"""What an argument must be, wherever it is one."""

import inspect
import math
import numbers

import numpy as np

FLOAT32_MAX = (2.0 - 2.0**-23) * 2.0**127


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


def check_positive(name, value):
    return check_number(name, value, "a finite number > 0", lambda number: number > 0)


def check_array(name, value, least=-math.inf):
    """`value` as a float or a float64 array, of finite numbers >= `least`."""
    expected = "a finite number" if least == -math.inf else f"a finite number >= {least:g}"
    expected += ", or an array of those"
    if isinstance(value, numbers.Number):
        return check_number(name, value, expected, lambda number: number >= least)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Argument `{name}` must be {expected}. Received: {name}={value!r}"
        ) from error
    if not (np.isfinite(array).all() and (array >= least).all()):
        raise ValueError(f"Argument `{name}` must be {expected}. Received: {name}={value!r}")
    return array


def broadcasts_to(shape, weight_shape):
    """Whether an array of `shape` broadcasts to `weight_shape`, whose lengths may be None."""
    aligned = zip(reversed(shape), reversed(weight_shape))
    return len(shape) <= len(weight_shape) and all(
        size == 1 or length is None or size == length for size, length in aligned
    )


def check_strength(name, value):
    """As `check_non_negative`; beyond float32 it would be infinite in a kernel, and NaN times 0."""
    expected = "a finite number >= 0, in float32 too"
    return check_number(name, value, expected, lambda number: 0 <= number <= FLOAT32_MAX)


def check_bool(name, value):
    if not isinstance(value, bool):
        raise TypeError(f"Argument `{name}` must be a bool. Received: {name}={value!r}")
    return value


def check_arguments(cls, config):
    """`config` if it is a dict of arguments that `cls` takes, all that it needs among them."""
    parameters = inspect.signature(cls).parameters.values()
    named = [known for known in parameters if known.kind is not known.VAR_KEYWORD]
    needed = [known.name for known in named if known.default is known.empty]
    optional = [known.name for known in named if known.name not in needed]
    takes_any = len(named) < len(parameters)
    return check_config(cls.__name__, config, needed, config if takes_any else optional)


def check_config(what, config, keys, optional=()):
    """`config` if it is a dict with these keys and no others but `optional` ones."""
    if not isinstance(config, dict):
        raise TypeError(f"The config of {what} must be a dict. Received: {config!r}")
    if not set(keys) <= set(config) <= {*keys, *optional}:
        needed = f"the keys {[*keys]}, and " if keys else ""
        raise ValueError(
            f"The config of {what} must have {needed}no keys but {[*keys, *optional]}. "
            f"Received: {config!r}"
        )
    return config
