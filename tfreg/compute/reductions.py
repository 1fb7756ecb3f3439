"""Sums, group sums and differences, each as the device at hand computes it best.

A kernel is traced under the strategy of its device; these functions delegate to that.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf

from tfreg.compute.cpu import XlaOnCpu
from tfreg.compute.direct import Direct
from tfreg.compute.gpu import Gpu
from tfreg.compute.tpu import Tpu

_UNKNOWN_SHAPE = Direct()
_BY_DEVICE: dict[str, Direct] = {"CPU": XlaOnCpu(), "GPU": Gpu(), "TPU": Tpu()}
DEVICES = tuple(_BY_DEVICE)

_local = threading.local()


def strategy_for(shape: tf.TensorShape, device: str) -> Direct:
    """The strategy for a weight of `shape` on a `device`, one of `DEVICES`."""
    return _BY_DEVICE[device] if shape.is_fully_defined() else _UNKNOWN_SHAPE


@contextlib.contextmanager
def using(strategy: Direct) -> Iterator[None]:
    """Makes the functions of this module follow `strategy` in this thread."""
    outer = getattr(_local, "strategy", None)
    _local.strategy = strategy
    try:
        yield
    finally:
        _local.strategy = outer


def current(x: tf.Tensor) -> Direct:
    """The strategy that this thread follows; outside of a kernel, that of a CPU."""
    strategy: Direct | None = getattr(_local, "strategy", None)
    return strategy_for(x.shape, "CPU") if strategy is None else strategy


def total(x: tf.Tensor) -> tf.Tensor:
    """The sum of all entries of `x`."""
    return current(x).total(x)


def difference(x: tf.Tensor, axis: int | None, order: int = 1) -> tf.Tensor:
    """`D x`: each difference of `order` along `axis` once, possibly among zeros.

    An axis of None flattens `x` in row-major order.
    """
    return current(x).difference(x, axis, order)


def difference_transposed(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor, axis: int | None, order: int = 1
) -> tf.Tensor:
    """`D^T function(D x)` for an elementwise `function` that is 0 at 0."""
    return current(x).difference_transposed(function, x, axis, order)


def step(x: tf.Tensor, axis: int | None) -> tf.Tensor:
    """`x_(i+1) - x_i` at each `i` along `axis`, 0 at the last."""
    return current(x).step(x, axis)


def step_transposed(y: tf.Tensor, axis: int | None) -> tf.Tensor:
    """The transpose of `step`, applied to `y`."""
    return current(y).step_transposed(y, axis)
