"""What each axis of a layer's weights means."""

from tfreg.layers.built_in import register_built_in
from tfreg.layers.registry import register
from tfreg.layout import Layout

__all__ = ["Layout", "register"]

register_built_in()
