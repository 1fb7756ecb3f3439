"""When a kernel is compiled by XLA, and for which device."""

import functools
import warnings

import tensorflow as tf

from tfreg import backend
from tfreg.compute import reductions
from tfreg.compute.direct import XLA_MIN_ELEMENTS

# Of smaller weights a copy takes less than the operations on each of them.
STACK_MAX_ELEMENTS = 2**12
_jit: bool | str = "auto"
_device: str | None = None


def set_jit(mode):
    """Sets when the kernels are compiled by XLA.

    Inside a function that XLA compiles, a train step under `jit_compile=True` say, every
    kernel is fused into it whatever the mode. What Keras has traced keeps the mode that it
    was traced with.

    Args:
        mode: `"auto"`, the default: large weights of static shape on devices that XLA has a
            compiler for; `True`: always; `False`: never.

    Raises:
        ValueError: for any other mode.

    Example:

    >>> tfreg.kernels.set_jit(False)
    >>> tfreg.kernels.set_jit("auto")
    """
    global _jit
    if not (isinstance(mode, bool) or mode == "auto"):
        raise ValueError(f"Argument `mode` must be 'auto', True or False. Received: {mode!r}")
    _jit = mode


def set_device(device):
    """Sets the device whose compiler the kernels are written for.

    How a sum is computed best differs between CPUs, GPUs and TPUs; the answers differ by rounding.
    What is traced already stays as it is.

    Args:
        device: `"CPU"`, `"GPU"` or `"TPU"`: for tests, and to compile for a device that the
            process lacks; None, the default: the device on which the weight lives where that is
            known, else the accelerator of the process, else its CPU.

    Raises:
        ValueError: for any other device.

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
def _accelerator():
    """The type of the accelerator of this process; None if it has none."""
    present = {device.device_type for device in tf.config.list_logical_devices()}
    return next((device for device in ("TPU", "GPU") if device in present), None)


def device_of(weight):
    """The device that a kernel of `weight` is compiled for."""
    if _device is not None:
        return _device
    accelerator = _accelerator()
    if accelerator is None:
        return "CPU"
    placed = tf.DeviceSpec.from_string(weight.device).device_type
    return placed if placed in reductions.DEVICES else accelerator


def should_batch(tensors):
    """Whether `tensors`, of one shape and dtype, are better computed on together."""
    shape = tensors[0].shape
    is_small = shape.is_fully_defined() and shape.num_elements() <= STACK_MAX_ELEMENTS
    return is_small and len(tensors) > 1


@functools.cache
def _xla_available():
    """Whether XLA compiles for every device here: a graph would tell only when it runs."""
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


def _xla_compiles_on(device_name):
    def probe():
        with tf.device(device_name):
            tf.function(tf.identity, jit_compile=True)(tf.zeros([1]))

    try:
        # What tf.debugging.enable_check_numerics() adds to a function does not compile.
        backend.in_a_fresh_thread(probe)
    except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
        return False
    return True


def is_xla_compiled(shape):
    """Whether XLA compiles the kernel of a weight of `shape`."""
    if _jit != "auto":
        return _jit
    return (shape.num_elements() or 0) >= XLA_MIN_ELEMENTS and _xla_available()
