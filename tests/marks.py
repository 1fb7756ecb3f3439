"""How long a test takes."""

import pytest


def slow(*values):
    """The values of a parameter that are left to the slow tests."""
    return pytest.param(*values, marks=pytest.mark.slow)


# Of what takes long in either Keras: tf_keras takes its turn in the slow tests.
KERAS_3_FIRST = pytest.mark.parametrize("api", ["keras", slow("tf_keras")], indirect=True)
