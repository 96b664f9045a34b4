"""Convert a function of TensorFlow to a TFLite file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.console import without_chatter
from edge_af.data.tfrecord import tensorflow

PRECISIONS = ("fp32", "int8")


def to_tflite(function: Any, inputs: Sequence[NDArray[np.float32]], precision: str) -> bytes:
    """Convert a `tf.function` with one input.

    Args:
        function: traced at the shape of the first input.
        inputs: inputs that find the activation ranges of INT8, each with its batch dimension.
        precision: `fp32`, or `int8` for integers inside and float32 outside.
    """
    tf = tensorflow()

    def representative() -> Iterator[list[NDArray[np.float32]]]:
        for one in inputs:
            yield [one]

    concrete = function.get_concrete_function(tf.TensorSpec(inputs[0].shape, tf.float32, "input"))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], function)
    if precision == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with warnings.catch_warnings(), without_chatter("WARNING:absl", "fully_quantize"):
        warnings.simplefilter("ignore")
        converted: bytes = converter.convert()
    return converted
