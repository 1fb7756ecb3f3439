"""The penalties, one file per family."""

from tfreg.penalties.base import Penalty, get
from tfreg.penalties.box import BoxPenalty
from tfreg.penalties.combine import Sum
from tfreg.penalties.group_lasso import GroupLasso, SparseGroupLasso
from tfreg.penalties.total_variation import TotalVariation

__all__ = [
    "BoxPenalty",
    "GroupLasso",
    "Penalty",
    "SparseGroupLasso",
    "Sum",
    "TotalVariation",
    "get",
]
