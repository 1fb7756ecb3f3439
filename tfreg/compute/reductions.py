"""Sums, group sums and differences, each as the device at hand computes it best.

A kernel is traced under the strategy of the device that it is for; these functions ask it.
"""

import contextlib
import threading

from tfreg.compute.cpu import XlaOnCpu
from tfreg.compute.direct import Direct
from tfreg.compute.gpu import Gpu
from tfreg.compute.tpu import Tpu

_UNKNOWN_SHAPE = Direct()
_BY_DEVICE = {"CPU": XlaOnCpu(), "GPU": Gpu(), "TPU": Tpu()}
DEVICES = tuple(_BY_DEVICE)

_local = threading.local()


def strategy_for(shape, device):
    """How sums over a weight of `shape` on a `device`, one of `DEVICES`, are computed."""
    return _BY_DEVICE[device] if shape.is_fully_defined() else _UNKNOWN_SHAPE


@contextlib.contextmanager
def using(strategy):
    """Has the functions of this module follow `strategy` in this thread."""
    outer = getattr(_local, "strategy", None)
    _local.strategy = strategy
    try:
        yield
    finally:
        _local.strategy = outer


def current(x):
    """The strategy that is followed; outside of a kernel, that of a CPU."""
    strategy = getattr(_local, "strategy", None)
    return strategy_for(x.shape, "CPU") if strategy is None else strategy


def total(x):
    """The sum of all entries of `x`."""
    return current(x).total(x)


def difference(x, axis, order=1):
    """`D x`: the differences of `order` along `axis`, each once, and perhaps zeros.

    The axis None is that of `x` flattened in row-major order.
    """
    return current(x).difference(x, axis, order)


def difference_transposed(function, x, axis, order=1):
    """`D^T function(D x)` for an elementwise `function` that is 0 at 0."""
    return current(x).difference_transposed(function, x, axis, order)


def step(x, axis):
    """`x_(i+1) - x_i` at each `i` along `axis`, 0 at the last."""
    return current(x).step(x, axis)


def step_transposed(y, axis):
    """The transpose of `step`, applied to `y`."""
    return current(y).step_transposed(y, axis)
