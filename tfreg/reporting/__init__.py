"""What the penalties of a model do, in the tools that users look at."""

from tfreg.reporting.curves import plot_history
from tfreg.reporting.report import Report, report
from tfreg.reporting.weight_maps import plot_weights

__all__ = ["Report", "plot_history", "plot_weights", "report"]
