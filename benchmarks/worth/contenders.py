"""What users would do otherwise, with the strengths among which the search chooses."""

import keras

from benchmarks.worth.protocol import NO_INPUTS, NONE, Contender

L1_RANGE, L2_RANGE = (1e-5, 1.0), (1e-4, 10.0)


def with_ranges(named, ranges):
    """The contenders, with ranges of their own where there are such."""
    for each in named:
        least, most = ranges.get(each.name, (each.least, each.most))
        yield each._replace(least=least, most=most)


def usual(drops_out=True):
    """Nothing; fewer steps; Keras's penalties on every kernel; dropout, where it is usual."""
    result = [
        Contender(NONE),
        # What is chosen is the moment of the training that did best on the validation part.
        Contender("early stopping", 0.005, 1.0, stops_early=True, natural=("least", "most")),
        Contender("L2", *L2_RANGE, keras.regularizers.L2(1.0)),
        Contender("L1", *L1_RANGE, keras.regularizers.L1(1.0)),
    ]
    if drops_out:
        # The odds of being dropped: rates from 0.05 to 0.95.
        result.append(Contender("dropout", 1 / 19, 19.0, drops_out=True, natural=("least", "most")))
    return result


def usual_for_tables():
    """The same, and a network that sees zeros: it learns the most frequent class, or the mean."""
    return [*usual(), Contender(NO_INPUTS)]
