"""Structured weight penalties for Keras 3 on TensorFlow and for tf_keras."""

from tfreg import (
    callbacks,
    features,
    kernels,
    layers,
    model,
    penalties,
    proximal,
    reporting,
    schedules,
    structure,
)
from tfreg.features import *
from tfreg.model import *
from tfreg.penalties import *
from tfreg.proximal import *
from tfreg.reporting import *
from tfreg.structure import *

__version__ = "0.5.0"

__all__ = ["callbacks", "kernels", "layers", "schedules"]
__all__ += features.__all__
__all__ += model.__all__
__all__ += penalties.__all__
__all__ += structure.__all__
__all__ += proximal.__all__
__all__ += reporting.__all__
