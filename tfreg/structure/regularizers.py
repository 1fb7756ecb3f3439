"""The layers' own penalties in the configs of a smaller model."""

from typing import Any

from tfreg import backend
from tfreg.inventory import Layer, Variable
from tfreg.model.contents import Contents
from tfreg.penalties import Penalty
from tfreg.penalties.base import Cut
from tfreg.structure.transfer import Cuts

_SUFFIX = "_regularizer"


def carried_regularizers(
    layer: Layer, config: dict[str, Any], cuts: Cuts, keep: bool
) -> dict[str, Any]:
    """The `config` of a layer with its penalties for what is left of their weights.

    Args:
        layer: the layer of the larger model.
        config: its config.
        cuts: what is left of the weights.
        keep: whether tfreg's penalties stay; other regularizers do.

    Raises:
        ValueError: if no penalty of what is left is the same.
    """
    changed: dict[str, Any] = {}
    for key in config:
        penalty = getattr(layer, key, None)
        if not key.endswith(_SUFFIX) or not isinstance(penalty, Penalty):
            continue
        if not keep:
            changed[key] = None
            continue
        parts = [penalty.on_part(cut) for cut in _cuts_of(layer, key, penalty, cuts)]
        if not parts or all(part is penalty for part in parts):
            continue
        configs = [part.get_config() for part in parts]
        if any(each != configs[0] for each in configs):
            raise ValueError(
                f"{penalty!r}, the {key} of {layer.name!r}, is on several weights of which "
                "different parts are left. Pass penalties=False, and add penalties to the smaller "
                "model."
            )
        changed[key] = backend.serialize(parts[0])
    return {**config, **changed}


def _cuts_of(layer: Layer, key: str, penalty: Penalty, cuts: Cuts) -> list[Cut]:
    """What is left of the weights that the layer has the penalty on."""
    name = key.removesuffix(_SUFFIX)
    for attribute in (name, f"{name}_kernel"):
        variable = getattr(layer, attribute, None)
        if backend.is_variable(variable):
            return [_cut(variable, cuts)]
    contents = Contents(layer)
    pairs = [
        pair
        for _, _, inner in contents.layers
        for pair in backend.regularized_weights(inner, contents.made_by(inner))
    ]
    return [
        _cut(variable, cuts)
        for variable, regularizer in pairs
        if type(regularizer) is type(penalty) and regularizer.get_config() == penalty.get_config()
    ]


def _cut(variable: Variable, cuts: Cuts) -> Cut:
    shape = tuple(variable.shape)
    kept = cuts.get(id(variable), (None,) * len(shape))
    return Cut(shape, kept, backend.weight_name(variable))
