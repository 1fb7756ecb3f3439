"""What users would do otherwise, with the strengths among which the search chooses."""

import keras

from benchmarks.worth.protocol import NONE, Contender

L1_RANGE, L2_RANGE = (1e-5, 1e-1), (1e-4, 1.0)


def usual(drops_out=True):
    """Nothing; fewer steps; Keras's penalties on every kernel; dropout, where it is usual."""
    result = [
        Contender(NONE),
        Contender("early stopping", 0.02, 1.0, stops_early=True),
        Contender("L2", *L2_RANGE, keras.regularizers.L2(1.0)),
        Contender("L1", *L1_RANGE, keras.regularizers.L1(1.0)),
    ]
    if drops_out:
        result.append(Contender("dropout", 0.05, 0.8, drops_out=True))
    return result
