"""Exact zeros: an optimizer that takes a proximal step after each of its own."""

from tfreg.proximal.optimizer import Proximal

__all__ = ["Proximal"]
