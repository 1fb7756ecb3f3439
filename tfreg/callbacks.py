"""Callbacks for `fit`, each one class for Keras 3 and tf_keras."""

from tfreg.reporting.callbacks import PenaltyMetrics
from tfreg.reporting.target_sparsity import TargetSparsity
from tfreg.reporting.tensorboard import TensorBoard

__all__ = ["PenaltyMetrics", "TargetSparsity", "TensorBoard"]
