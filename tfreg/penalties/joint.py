"""Joint: one penalty on several weights together."""

import tensorflow as tf

from tfreg import backend
from tfreg.checks import check_arguments
from tfreg.compute.numerics import with_common_dtype
from tfreg.layout import Layout
from tfreg.penalties.base import Penalty, check_step_size, no_joint_prox
from tfreg.read_only import ReadOnly


@backend.register
class Joint(ReadOnly):
    """One penalty on several weights together, for `tfreg.add_penalty`.

    `penalty(w_1, ..., w_n)`

    - `GroupLasso`, `SparseGroupLasso` and `GroupMCP` tie the weights' groups: the k-th groups of
      all of them are one group, which goes as a whole. That of `GroupLasso` is
      `factor * sum_k sqrt(size_k) * sqrt(sum_i ||w_ik||^2)`. Their `axis` may be a list with an
      entry for each weight.
    - `TotalVariation` compares each weight with the next one of the same shape:
      `factor * sum_i ||w_(i+1) - w_i||_1`, a smoothness over depth.
    - A function of a list of tensors, registered with Keras, is what it returns, a scalar.

    Args:
        penalty: a penalty of those, a `Sum` of them, or a function that was registered with
            `keras.saving.register_keras_serializable`.

    Raises:
        TypeError: if `penalty` is none of these.
        ValueError: if it is a penalty that does not couple weights, or a function that a saved
            model could not name.

    Example:

    >>> penalty = tfreg.Joint(tfreg.GroupLasso(1.0, axis=["output", "input"], size_weighted=False))
    >>> first, second = tf.constant([[3.0, 0.0]]), tf.constant([[4.0], [0.0]])
    >>> float(penalty([first, second]))
    5.0
    """

    _instead = Penalty._instead

    def __init__(self, penalty):
        if isinstance(penalty, Penalty):
            penalty._check_joint()
        elif not callable(penalty) or isinstance(penalty, Joint) or backend.is_regularizer(penalty):
            raise TypeError(
                "Argument `penalty` must be a penalty that couples weights or a registered "
                f"function of a list of tensors. Received: penalty={penalty!r}"
            )
        else:
            backend.check_registered("penalty", penalty)
        self.penalty = penalty

    def __call__(self, weights):
        """The penalty's value at `weights`, a list; names of axes go by position."""
        if not isinstance(weights, (list, tuple)) or not weights:
            raise TypeError(
                "Argument `weights` must be a non-empty list of tensors or variables: tfreg.Joint "
                "goes with tfreg.add_penalty and is no layer's regularizer. "
                f"Received: {type(weights).__name__}"
            )
        return self.value_on(weights, [None] * len(weights))

    @tf.autograph.experimental.do_not_convert
    def value_on(self, weights, layouts):
        """The value at `weights` whose axes mean what `layouts` say; None goes by position."""
        tensors, layouts, names = _known(weights, layouts)
        if isinstance(self.penalty, Penalty):
            value = self.penalty._joint_value(tensors, layouts, names)
        else:
            value = tf.convert_to_tensor(self.penalty(with_common_dtype(tensors)))
            if value.shape.rank != 0:
                raise ValueError(
                    "The function of a tfreg.Joint must return a scalar. "
                    f"Received: a tensor of shape {value.shape} from {self.penalty!r}"
                )
        return backend.loss_value(value, weights[0])

    @tf.autograph.experimental.do_not_convert
    def prox_on(self, weights, layouts, step_size):
        """`argmin_x 1/2 sum_i ||x_i - weights_i||^2 + step_size * penalty(x_1, ..., x_n)`.

        Args:
            weights: a list of variables of either Keras or tensors.
            layouts: what the axes of each mean; None goes by position.
            step_size: a non-negative number or scalar tensor.

        Returns:
            A list of tensors of the shapes and dtypes of `weights`.

        Raises:
            NotImplementedError: if the penalty has no proximal operator in closed form.
            TypeError, ValueError: as the value; or for another `step_size`.
        """
        if not isinstance(self.penalty, Penalty):
            raise no_joint_prox(self)
        tensors, layouts, names = _known(weights, layouts)
        wide = with_common_dtype(tensors)
        step_size = check_step_size(step_size, wide[0].dtype)
        results = self.penalty._joint_prox(wide, layouts, names, step_size)
        return [tf.cast(result, tensor.dtype) for result, tensor in zip(results, tensors)]

    def get_config(self):
        return {"penalty": backend.serialize(self.penalty)}

    @classmethod
    def from_config(cls, config):
        penalty = check_arguments(cls, config)["penalty"]
        return cls(**{**config, "penalty": backend.deserialize(penalty)})

    def __repr__(self):
        return f"Joint({getattr(self.penalty, '__name__', repr(self.penalty))})"


def _known(weights, layouts):
    """The `weights` as tensors, their layouts, and their names for messages."""
    tensors = [backend.weight_tensor(weight) for weight in weights]
    layouts = [
        layout or Layout.positional(tensor.shape.rank) for layout, tensor in zip(layouts, tensors)
    ]
    return tensors, layouts, _distinct([backend.weight_name(weight) for weight in weights])


def _distinct(names):
    """`names`, with their place where they are those of tensors and so alike."""
    if len(set(names)) == len(names):
        return names
    return [f"{name} at {place}" for place, name in enumerate(names)]
