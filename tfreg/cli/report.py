"""`tfreg report`: what the penalties of a saved model do, and what compaction would leave of it."""

import inspect
import json

from tfreg.cli.files import fail, load, reason
from tfreg.model import add_penalty
from tfreg.penalties import __all__ as names_of_penalties
from tfreg.penalties import get
from tfreg.penalties.registry import class_named
from tfreg.reporting import report

COMMAND = "report"


def run(path, other, penalty, tolerance, as_json, plot, theme):
    """Prints the report of the model in the file `path`, or compares it with the one in `other`."""
    files = [path] if other is None else [path, other]
    reports = [_reported(file, penalty, tolerance) for file in files]
    result = reports[0] if other is None else reports[0].compare(reports[1])
    print(json.dumps(result.to_dict(), indent=2) if as_json else result)
    if plot is not None:
        _plot(reports[-1], plot, theme)
        if not as_json:
            print(f"\nThe plot is {plot}")


def _reported(path, penalty, tolerance):
    model = load(COMMAND, path)
    try:
        if penalty is not None:
            model = add_penalty(model, penalty)
        return report(model, tolerance=tolerance)
    except (TypeError, ValueError, NotImplementedError) as error:
        fail(COMMAND, f"{path}: {error}")


def _plot(reported, path, theme):
    try:
        reported.plot(path, theme=theme)
    except OSError as error:
        fail(COMMAND, f"{path} cannot be written: {error.strerror or error}")
    except ImportError as error:
        fail(COMMAND, str(error))
    except (RuntimeError, ValueError) as error:  # of matplotlib, for a kind of file that it lacks
        fail(COMMAND, f"{path} cannot be written: {reason(error)}")


def penalty_named(name, axis, factor):
    """The penalty that the command's arguments describe; None for those that are not given.

    Raises:
        ValueError, TypeError: if there is none.
    """
    try:
        cls = class_named(name)
    except ValueError:
        raise ValueError(f"the command knows no {name!r}; {_those_that_go()}") from None
    parameters = inspect.signature(cls).parameters
    missing = [key for key, value in parameters.items() if value.default is value.empty]
    if missing:
        raise ValueError(
            f"{cls.__name__} needs {missing[0]!r}, which the command cannot give; "
            f"{_those_that_go()}"
        )
    arguments = {"axis": axis, "factor": factor}
    given = {key: value for key, value in arguments.items() if value is not None}
    for key in given:
        if key not in parameters:
            raise ValueError(f"{cls.__name__} has no {key}")
    return cls(**given)


def _those_that_go():
    return f"those that go are {', '.join(filter(_needs_nothing, names_of_penalties))}"


def _needs_nothing(name):
    try:
        get(name)
    except ValueError:  # it has arguments without a default, or is the base of others
        return False
    return True


def axis_of(text):
    """An axis as the command is given it: a number, numbers with commas between, or a name."""
    parts = text.split(",")
    try:
        numbers = tuple(int(part) for part in parts)
    except ValueError:
        return text
    return numbers if len(numbers) > 1 else numbers[0]
