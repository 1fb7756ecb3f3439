"""Structure: what lives and dies together in a model, and cutting it out."""

from tfreg.structure.compact import compact
from tfreg.structure.couplings import couple

__all__ = ["compact", "couple"]
