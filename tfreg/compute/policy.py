"""When a kernel is compiled by XLA, and for which device."""

import functools
import warnings
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from tfreg import backend
from tfreg.compute import reductions
from tfreg.compute.direct import XLA_MIN_ELEMENTS

# Copying weights up to this size costs less than the operations on each of them.
STACK_MAX_ELEMENTS = 2**12
_jit: bool | Literal["auto"] = "auto"
_device: Literal["CPU", "GPU", "TPU"] | None = None


def set_jit(mode: bool | Literal["auto"]) -> None:
    """Sets when XLA compiles the kernels of penalties.

    Inside a function that XLA compiles, such as a train step under `jit_compile=True`, kernels are
    fused whatever the mode. Functions that Keras has already traced keep their mode.

    Args:
        mode: `True`: always; `False`: never; `"auto"`, the default: for weights of static shape
            with at least 2^18 elements, on devices that XLA has a compiler for.

    Raises:
        ValueError: if `mode` is anything else.

    Example:

    >>> tfreg.kernels.set_jit(False)
    >>> tfreg.kernels.set_jit("auto")
    """
    global _jit
    if not (isinstance(mode, bool) or mode == "auto"):
        raise ValueError(f"Argument `mode` must be 'auto', True or False. Received: {mode!r}")
    _jit = mode


def set_device(device: Literal["CPU", "GPU", "TPU"] | None) -> None:
    """Sets the type of device that kernels are optimized for; it moves no computation.

    CPUs, GPUs and TPUs compute sums best in different ways, whose results differ by rounding.
    Functions that are already traced do not change.

    Args:
        device: `"CPU"`, `"GPU"` or `"TPU"`, for tests and to compile for a device that the process
            lacks. None, the default, takes the device of the weight where that is known, else the
            accelerator of the process, else its CPU.

    Raises:
        ValueError: if `device` is anything else.

    Example:

    >>> tfreg.kernels.set_device("TPU")
    >>> tfreg.kernels.set_device(None)
    """
    global _device
    if not (device is None or (isinstance(device, str) and device in reductions.DEVICES)):
        raise ValueError(
            f"Argument `device` must be 'CPU', 'GPU', 'TPU' or None. Received: {device!r}"
        )
    _device = device


@functools.cache
def _accelerator() -> str | None:
    """The type of the accelerator of this process; None if it has none."""
    present = {device.device_type for device in tf.config.list_logical_devices()}
    return next((device for device in ("TPU", "GPU") if device in present), None)


def device_of(weight: tf.Tensor) -> str:
    """The type of device that kernels of `weight` are compiled for."""
    if _device is not None:
        return _device
    accelerator = _accelerator()
    if accelerator is None:
        return "CPU"
    placed = tf.DeviceSpec.from_string(weight.device).device_type
    return placed if placed in reductions.DEVICES else accelerator


def should_batch(tensors: Sequence[tf.Tensor]) -> bool:
    """Whether stacking `tensors`, of one shape and dtype, is faster than one kernel for each."""
    return len(tensors) > 1 and is_small(tensors[0])


def is_small(tensor: tf.Tensor) -> bool:
    """Whether a kernel of its own takes longer than copying `tensor`."""
    is_known = tensor.shape.is_fully_defined()
    return bool(is_known and tensor.shape.num_elements() <= STACK_MAX_ELEMENTS)


@functools.cache
def _xla_available() -> bool:
    """Whether XLA has a compiler for every device here, which a graph shows only when it runs."""
    devices = {device.device_type: device for device in tf.config.list_logical_devices()}
    for device_type, device in devices.items():
        if device_type in ("CPU", "GPU", "TPU") and not _xla_compiles_on(device.name):
            warnings.warn(
                f"XLA has no compiler for {device_type} devices here: tfreg's kernels run as "
                "plain graphs.",
                stacklevel=2,
            )
            return False
    return True


def _xla_compiles_on(device_name: str) -> bool:
    def probe() -> None:
        with tf.device(device_name):
            tf.function(tf.identity, jit_compile=True)(tf.zeros([1]))

    try:
        # In this thread, tf.debugging.enable_check_numerics() may add what XLA does not compile.
        backend.in_a_fresh_thread(probe)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
        return False
    return True


def is_xla_compiled(shape: tf.TensorShape, has_loops: bool = False) -> bool:
    """Whether XLA compiles the kernel of a weight of `shape`, also a small one if it has loops."""
    if _jit != "auto":
        return _jit
    least = 1 if has_loops else XLA_MIN_ELEMENTS
    return (shape.num_elements() or 0) >= least and _xla_available()
