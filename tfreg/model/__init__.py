"""Penalties over a model."""

from tfreg.model.attach import add_penalty, clone_model, regularization_loss, remove_penalties
from tfreg.model.attached import get_penalties

__all__ = [
    "add_penalty",
    "clone_model",
    "get_penalties",
    "regularization_loss",
    "remove_penalties",
]
