"""The steps of optimizers in NumPy.

Each takes a weight, its gradient, a state, the number of the step, and the learning rate.
"""

import numpy as np


def sgd(w, g, s, k, rate, momentum=0.0, nesterov=False):
    s["m"] = momentum * s.get("m", 0.0) - rate * g
    return w + (momentum * s["m"] - rate * g if nesterov else s["m"])


def adam(w, g, s, k, rate):
    s["m"] = 0.9 * s.get("m", 0.0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0.0) + 0.001 * g**2
    scaled = rate * np.sqrt(1.0 - 0.999 ** (k + 1)) / (1.0 - 0.9 ** (k + 1))
    return w - scaled * s["m"] / (np.sqrt(s["v"]) + 1e-7)


def rmsprop(w, g, s, k, rate, momentum=0.0):
    s["v"] = 0.9 * s.get("v", 0.0) + 0.1 * g**2
    s["m"] = momentum * s.get("m", 0.0) + rate * g / np.sqrt(s["v"] + 1e-7)
    return w - s["m"]


STEPS = {"SGD": sgd, "Adam": adam, "AdamW": adam, "RMSprop": rmsprop}
