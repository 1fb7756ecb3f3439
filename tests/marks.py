"""How long a test takes."""

import pytest


def slow(*values):
    """The values of a parameter that are left to the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


# Where Keras 3 and tf_keras take long alike, tf_keras waits for the slow tests.
KERAS_3_FIRST = pytest.mark.parametrize("api", ["keras", slow("tf_keras")], indirect=True)
