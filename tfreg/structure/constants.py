"""What is known of each tensor at inference: the channels that are constants."""

import numpy as np

from tfreg.structure.tracing import Known, Read, Step, Trace, Value


def known_reads(trace: Trace) -> list[tuple[Step, Read, np.ndarray]]:
    """Each read of each step, with the constants along its axis, NaN where there are none."""
    known: dict[int, Known] = {}

    def known_of(value: Value) -> Known:
        while id(value) in trace.outer_values:
            value = trace.outer_values[id(value)]
        return known.get(id(value))

    found = []
    for step in trace.steps:
        inputs = [known_of(value) for value in step.inputs]
        outputs = step.constants(inputs)
        known |= {id(value): constants for value, constants in zip(step.outputs, outputs)}
        for read in step.reads:
            constants = read.known(inputs, outputs)
            if constants is None:
                constants = np.full(len(read.labels), np.nan)
            assert len(constants) == len(read.labels), step.path
            found.append((step, read, constants))
    return found
