"""Structured weight penalties for Keras 3 on TensorFlow and for tf_keras."""

from tfreg import kernels
from tfreg.penalties import (
    BoxPenalty,
    GroupLasso,
    SparseGroupLasso,
    Sum,
    TotalVariation,
    get,
)

__version__ = "0.1.0"

__all__ = [
    "BoxPenalty",
    "GroupLasso",
    "SparseGroupLasso",
    "Sum",
    "TotalVariation",
    "get",
    "kernels",
]
