"""The penalties, one file per family."""

from tfreg.penalties.base import Penalty
from tfreg.penalties.box import BoxPenalty
from tfreg.penalties.group_lasso import GroupLasso, SparseGroupLasso
from tfreg.penalties.joint import Joint
from tfreg.penalties.prior import Prior
from tfreg.penalties.registry import get
from tfreg.penalties.sum import Sum
from tfreg.penalties.total_variation import TotalVariation

__all__ = [
    "BoxPenalty",
    "GroupLasso",
    "Joint",
    "Penalty",
    "Prior",
    "SparseGroupLasso",
    "Sum",
    "TotalVariation",
    "get",
]
