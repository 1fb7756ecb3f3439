"""Collects what TensorBoard is to show."""

import numpy as np

from tfreg.reporting import pictures

# Of the values in a histogram, at most so many.
_MOST = 2**17


class Summaries:
    """Collects summaries, not by TensorFlow's operations, of which each may take milliseconds."""

    def __init__(self) -> None:
        try:
            from tensorboard.compat.proto.summary_pb2 import Summary
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] != "tensorboard":
                raise
            raise ModuleNotFoundError(
                "The callback TensorBoard needs the package tensorboard. Install it: "
                "pip install 'tfreg[tensorboard]'",
                name=error.name,
            ) from error
        self._summary = Summary()

    def taken(self) -> bytes:
        """What was added, which leaves nothing."""
        serialized = self._summary.SerializeToString()
        self._summary.Clear()
        return serialized

    def add_scalar(self, tag: str, value: float) -> None:
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb

        self._summary.MergeFrom(scalar_pb(tag, value))

    def add_histogram(self, tag: str, values: np.ndarray) -> None:
        from tensorboard.plugins.histogram.summary_v2 import histogram_pb

        if len(values) > _MOST:
            values = values[np.arange(_MOST) * len(values) // _MOST]
        # After the choice: of a large weight all of it in float64 is much.
        values = values.astype(np.float64)
        self._summary.MergeFrom(histogram_pb(tag, values[np.isfinite(values)]))

    def add_text(self, tag: str, text: str) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        self._summary.MergeFrom(text_pb(tag, text))

    def add_image(self, tag: str, values: np.ndarray) -> None:
        from tensorboard.plugins.image.metadata import create_summary_metadata
        from tensorboard.util.tensor_util import make_tensor_proto

        drawn = pictures.picture(values)
        height, width = (str(size).encode() for size in drawn.shape)
        self._summary.value.add(
            tag=tag,
            metadata=create_summary_metadata(display_name=None, description=None),
            tensor=make_tensor_proto([width, height, pictures.png(drawn)]),
        )
