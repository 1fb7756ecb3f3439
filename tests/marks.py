"""How long a test takes."""

import pytest


def slow(*values):
    """The values of a parameter that are left to the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)
