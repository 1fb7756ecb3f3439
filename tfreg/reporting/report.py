"""The report of a model: what its penalties do, what is left of it, and what it costs."""

import dataclasses
import os
from typing import Any

import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_number
from tfreg.inventory import Model
from tfreg.model.contents import Contents
from tfreg.reporting.comparison import Comparison
from tfreg.reporting.penalized import (
    ReportedBudget,
    ReportedPenalty,
    ReportedWeight,
    reported_budgets,
    reported_penalties,
    reported_weights,
)
from tfreg.reporting.plots import plot_report
from tfreg.reporting.sections import sections
from tfreg.reporting.tables import as_html, as_text, plain
from tfreg.reporting.totals import ReportedCoupling, Unfollowed, totals
from tfreg.structure.rules import Rules


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Report:
    """What the penalties of a model do, what is left of it, and what it costs.

    `tfreg.report(model)` makes it; it keeps no part of the model. Printed, it is some tables of at
    most 100 columns; in a notebook they are HTML.

    Attributes:
        model: the name of the model.
        penalties: a `ReportedPenalty` for each weight that each penalty is on: `paths`, `shapes`,
            `penalty`, `kind`, `of_entries`, `where`, `strength`, `value`, `share`, `elements`,
            `zero_elements`, `groups`, `zero_groups`, `small_groups` and `norms`. One for the
            weights that a penalty ties.
        couplings: a `ReportedCoupling` for each of `tfreg.couple`: `paths`, `size`, how many
            entries `tfreg.compact` leaves as `left`, and `norms`.
        budgets: a `ReportedBudget` for each resource that a `tfreg.Budget` of the optimizer bounds:
            `budget`, `resource`, and the counts `target`, `left` and `total`.
        parameters, parameters_after: as `model.count_params()`, now and after `tfreg.compact`.
        multiply_adds, multiply_adds_after: the multiplications with weights for one example. A
            multiply-add is one; biases, normalizations, activations and products of activations
            are not counted. An axis of unknown length counts as one position.
        unfollowed: an `Unfollowed` for each `reason` why entries of the weights `paths` stay.
        not_counted: the paths of weights whose multiply-adds are not known.
        tolerance: as given.
        weights: a `ReportedWeight` for each weight, penalized or not: `path`, `shape` and
            `zero_elements`.
        unknown_lengths: the paths of weights whose multiply-adds are for one position of an axis of
            unknown length.
        is_built: whether all layers have made their weights. Those that have not, tell none of
            their regularizers.
        not_followed: why a model has no couplings and multiply-adds that are known: it is not
            built, or cannot be traced. None if it has.
        not_cut: why it is not known what `tfreg.compact` would leave of a model with couplings: its
            layers cannot be made anew. None if that is known.

    What is not known is None: the counts after, the multiply-adds, and what is `left` of couplings.

    Example:

    >>> layer = keras.layers.Dense(4, kernel_regularizer=tfreg.GroupLasso(0.1), name="hidden")
    >>> model = keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(2)])
    >>> before = tfreg.report(model)
    >>> tfreg.couple(model)[0].zero([0, 2])
    >>> after = tfreg.report(model)
    >>> after.penalties[0].zero_groups, after.couplings[0].left
    (2, 2)
    >>> before.compare(after).to_dict()["couplings"][0]["before"]
    {'size': 4, 'left': 4}
    """

    model: str
    penalties: list[ReportedPenalty]
    couplings: list[ReportedCoupling]
    budgets: list[ReportedBudget]
    parameters: int
    parameters_after: int | None
    multiply_adds: int | None
    multiply_adds_after: int | None
    unfollowed: list[Unfollowed]
    not_counted: list[str]
    tolerance: float
    weights: list[ReportedWeight] = dataclasses.field(default_factory=list)
    unknown_lengths: list[str] = dataclasses.field(default_factory=list)
    is_built: bool = True
    not_followed: str | None = None
    not_cut: str | None = None

    def compare(self, other: "Report") -> Comparison:
        """This report and a later one, of the same model or of a smaller one, side by side.

        Args:
            other: the later report.

        Returns:
            A `Comparison`, which prints what has changed.

        Raises:
            TypeError: if `other` is no report.
        """
        if not isinstance(other, Report):
            raise TypeError(f"Argument `other` must be a report. Received: other={other!r}")
        return Comparison(self, other)

    def plot(self, path: str | os.PathLike | None = None, theme: str = "light") -> Any:
        """A picture of the report, by matplotlib.

        Args:
            path: a file to save it in, by whose ending the format goes; None saves nothing.
            theme: `"light"` or `"dark"`.

        Returns:
            A `matplotlib.figure.Figure`.

        Raises:
            ModuleNotFoundError: without matplotlib.
            ValueError: for any other `theme`, and for a `path` with an unknown ending or in no
                directory.
        """
        return plot_report(self, path, theme)

    def to_dict(self) -> dict[str, Any]:
        """The report without norms in JSON's types.

        A number that is not finite is a string: `"nan"`, `"inf"` or `"-inf"`. What is not known is
        None.
        """
        figures = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return plain({name: _without_norms(value) for name, value in figures.items()})

    def to_dataframe(self) -> Any:
        """The penalties as a `pandas.DataFrame`, a row for each.

        The columns are those of `ReportedPenalty` without `norms`; paths and shapes are strings.

        Raises:
            ImportError: if pandas is not there.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "Report.to_dataframe needs pandas, which is not installed: pip install pandas"
            ) from error
        names = [each.name for each in dataclasses.fields(ReportedPenalty) if each.name != "norms"]
        frame = pandas.DataFrame(list(map(_without_norms, self.penalties)), columns=names)
        for name in ("paths", "shapes"):
            frame[name] = [", ".join(map(str, values)) for values in frame[name]]
        # Floats would be the numbers of groups if some are missing.
        counts = ("groups", "zero_groups", "small_groups")
        types = dict.fromkeys(counts, "Int64") | {"strength": "float64", "value": "float64"}
        return frame.astype(types)

    def __repr__(self) -> str:
        return as_text(self._heading, sections(self))

    def _repr_html_(self) -> str:
        return as_html(self._heading, sections(self))

    @property
    def _heading(self) -> str:
        return f"Report of the model {self.model!r}"


def _without_norms(value: Any) -> Any:
    """A dataclass, or a list of some, as dicts."""
    if isinstance(value, list):
        return list(map(_without_norms, value))
    if not dataclasses.is_dataclass(value):
        return value
    names = [field.name for field in dataclasses.fields(value) if field.name != "norms"]
    return {name: getattr(value, name) for name in names}


def report(model: Model, tolerance: float = 1e-3, rules: Rules | None = None) -> Report:
    """Tells what the penalties of a model do, what is left of it, and what it costs.

    It reads the weights as they are, by NumPy in float64, and leaves the model and its optimizer as
    they are. Penalties are those of layers, of `tfreg.add_penalty` and of a `tfreg.Proximal`;
    Keras's own regularizers of weights are listed with them, without groups. The values in the
    loss, those of layers and the model, add up to the model's losses by weights.

    A subclassed model is traced: its `call` runs once or twice on symbolic tensors. What that does
    to variables, losses and nodes of the model is undone. What else a `call` does stays: Python
    attributes that it sets, weights that it makes, random numbers that it draws by TensorFlow.

    A strength whose schedule counts the steps of an optimizer that is not there, as before the
    model is compiled, is None, and so is its value.

    Args:
        model: a model of either Keras, built or not, penalized or not.
        tolerance: which groups are small: those with a norm of at most that many times the largest
            of the same penalty on the same weights. A number in [0, 1).
        rules: how to follow layers of your own: see `tfreg.couple`.

    Returns:
        A `Report`, which prints as tables, with `to_dict()`, `to_dataframe()`, `compare(other)` and
        `plot(path)`.

    Raises:
        TypeError, ValueError: for other arguments; if the model has a `tfreg.Proximal` that was
            made for another.
        RuntimeError: in a `tf.function` or a `tf.Graph`.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden")])
    >>> model.add(keras.layers.Dense(2, name="last"))
    >>> model = tfreg.add_penalty(model, tfreg.GroupLasso(0.1))
    >>> tfreg.couple(model)[0].zero([0])
    >>> report = tfreg.report(model)
    >>> [(row.paths, row.zero_groups, row.groups) for row in report.penalties]
    [(['hidden/kernel'], 1, 4), (['last/kernel'], 0, 2)]
    >>> report.parameters, report.parameters_after, report.multiply_adds_after
    (46, 35, 30)
    """
    if not backend.is_model(model):
        raise TypeError(
            f"Argument `model` must be a model of Keras 3 or tf_keras. Received: model={model!r}"
        )
    backend.check_not_graph_mode("tfreg.report")
    if not tf.executing_eagerly():
        raise RuntimeError(
            "tfreg.report reads the values of weights, which a graph has not. Call it outside of "
            "tf.function and tf.Graph."
        )
    tolerance = check_number("tolerance", tolerance, "a number in [0, 1)", lambda t: 0.0 <= t < 1.0)
    found = totals(model, rules)
    figures = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    return Report(
        model=model.name,
        penalties=reported_penalties(model, tolerance),
        budgets=reported_budgets(model),
        tolerance=tolerance,
        weights=reported_weights(model),
        is_built=Contents(model).is_built,
        **figures,
    )
