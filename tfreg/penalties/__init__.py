"""The penalties, one file per family."""

from tfreg.penalties.base import Penalty, get
from tfreg.penalties.box import BoxPenalty
from tfreg.penalties.combine import Joint, Sum
from tfreg.penalties.group_lasso import GroupLasso, SparseGroupLasso
from tfreg.penalties.prior import Prior
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
