"""The rule for each operation: built in, by the user, or the one that keeps what is not known."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

from tfreg import backend
from tfreg.checks import nearest
from tfreg.structure import (
    attention,
    channelwise,
    convolutions,
    kernels,
    normalizations,
    recurrent,
    shapes,
    wrappers,
)
from tfreg.structure.tracing import Rule, Step, Value

# By the names that Keras exports its layers under.
_LAYERS: dict[str, Rule] = {
    **channelwise.LAYERS,
    **normalizations.LAYERS,
    **kernels.LAYERS,
    **convolutions.LAYERS,
    **recurrent.LAYERS,
    **wrappers.LAYERS,
    **attention.LAYERS,
    **shapes.LAYERS,
}
# By the names that `backend.function_name` gives.
_FUNCTIONS: dict[str, Rule] = {**channelwise.FUNCTIONS, **shapes.FUNCTIONS}
_BY_CLASS: dict[type, Rule] = {
    cls: rule for name, rule in _LAYERS.items() for cls in backend.classes_named(name)
}


def fixed(step: Step) -> list[Value]:
    return step.pin_all(f"{step.path} is declared fixed")


KINDS: dict[str, Rule] = {**channelwise.KINDS, **kernels.KINDS, "fixed": fixed}
# The argument `rules` of `tfreg.couple`.
Rules: TypeAlias = Mapping[Any, str]


def rule_finder(rules: Rules | None) -> Callable[[Any], Rule]:
    """The function that finds the rule of an operation, the user's `rules` first.

    Raises:
        TypeError, ValueError: for other `rules`.
    """
    own = {} if rules is None else dict(_checked(rules))

    def rule_for(operation: Any) -> Rule:
        for cls in type(operation).__mro__:
            if cls in own:
                return KINDS[own[cls]]
        function = _function_of(operation)
        if function is not None and function in own:
            return KINDS[own[function]]
        name = backend.function_name(operation)
        if name is not None:
            return _FUNCTIONS.get(name, _not_followed)
        # A subclass may do something else in its call.
        cls = type(operation)
        if cls in _BY_CLASS:
            return _BY_CLASS[cls]
        if backend.is_of_keras(operation) and cls.__name__ in _LAYERS:
            return _LAYERS[cls.__name__]
        return _not_followed

    return rule_for


def elementwise_functions(rules: Rules | None) -> frozenset[Any]:
    """The functions that the user declares elementwise, checked by `rule_finder`."""
    declared = {} if rules is None else rules
    return frozenset(
        key
        for key, kind in declared.items()
        if not isinstance(key, type) and KINDS[kind] is channelwise.elementwise
    )


def _function_of(operation: Any) -> Any:
    """The function that is all that a layer or an operation does; None if there is none."""
    names = [cls.__name__ for cls in type(operation).__mro__]
    attribute = "activation" if "Activation" in names else "function"
    function = getattr(operation, attribute, None)
    return function if isinstance(function, Hashable) else None


def _checked(rules: Any) -> Rules:
    if not isinstance(rules, Mapping):
        raise TypeError(
            "Argument `rules` must be a dict whose keys are layer classes or functions. "
            f"Received: rules={rules!r}"
        )
    for key, kind in rules.items():
        if not isinstance(key, type) and not callable(key):
            raise TypeError(
                "Argument `rules` must have layer classes or functions as its keys. "
                f"Received: {key!r}"
            )
        if not isinstance(kind, str) or kind not in KINDS:
            raise ValueError(
                f"Argument `rules` must map to one of {sorted(KINDS)}. Received: {kind!r}"
                f"{nearest(str(kind), KINDS)}"
            )
    return rules


def _not_followed(step: Step) -> list[Value]:
    kind = type(step.operation).__name__
    name = backend.function_name(step.operation)
    if name is not None:
        return step.pin_all(f"the operation {name} is not followed")
    if kind == "Lambda":
        return step.pin_all(f"{step.path} is a Lambda layer, which may do anything")
    return step.pin_all(f"{step.path} is a {kind} layer, for which there is no rule")
