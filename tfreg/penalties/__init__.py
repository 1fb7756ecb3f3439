"""The penalties, one file per family."""

from tfreg.penalties.base import Penalty
from tfreg.penalties.box import BoxPenalty
from tfreg.penalties.elementwise import Elementwise
from tfreg.penalties.group_lasso import GroupLasso
from tfreg.penalties.group_mcp import GroupMCP
from tfreg.penalties.joint import Joint
from tfreg.penalties.mcp import MCP
from tfreg.penalties.prior import Prior
from tfreg.penalties.quadratic import Quadratic
from tfreg.penalties.registry import get, register
from tfreg.penalties.scad import SCAD
from tfreg.penalties.sparse_group_lasso import SparseGroupLasso
from tfreg.penalties.sum import Sum
from tfreg.penalties.total_variation import TotalVariation

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
    "get",
    "register",
]
