"""Callbacks for `fit`, each one class for Keras 3 and tf_keras."""

from tfreg.reporting.callbacks import PenaltyMetrics

__all__ = ["PenaltyMetrics"]
