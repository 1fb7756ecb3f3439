"""Exact zeros: an optimizer that takes a proximal step after each of its own."""

from tfreg.proximal.optimizer import Proximal
from tfreg.proximal.target import Budget

__all__ = ["Budget", "Proximal"]
