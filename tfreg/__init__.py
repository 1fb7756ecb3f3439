"""Structured weight penalties for Keras 3 on TensorFlow and for tf_keras."""

from tfreg import kernels, layers, schedules
from tfreg.model import (
    add_penalty,
    clone_model,
    get_penalties,
    regularization_loss,
    remove_penalties,
)
from tfreg.penalties import (
    MCP,
    SCAD,
    BoxPenalty,
    Elementwise,
    GroupLasso,
    GroupMCP,
    Joint,
    Penalty,
    Prior,
    Quadratic,
    SparseGroupLasso,
    Sum,
    TotalVariation,
    get,
    register,
)

__version__ = "0.5.0"

__all__ = [
    "BoxPenalty",
    "Elementwise",
    "GroupLasso",
    "GroupMCP",
    "Joint",
    "MCP",
    "Penalty",
    "Prior",
    "Quadratic",
    "SCAD",
    "SparseGroupLasso",
    "Sum",
    "TotalVariation",
    "add_penalty",
    "clone_model",
    "get",
    "get_penalties",
    "kernels",
    "layers",
    "register",
    "regularization_loss",
    "remove_penalties",
    "schedules",
]
