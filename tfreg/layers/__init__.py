"""What each axis of the weights of each layer means."""

from tfreg.layers.built_in import register_built_in
from tfreg.layers.registry import register

__all__ = ["register"]

register_built_in()
