"""Files of the same form as those that Google publishes for YouTube-8M's features: narrow networks with random weights."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.features.youtube8m import BLOCKS, DENSE, GRAPH, INCEPTION, VGGISH
from edge_af.protobuf import field, varint

SIDE, WIDTH, SUMS = 75, 48, 32
"""Side of the frames, and widths of the two networks' features."""
FEATURES = {"inception3": 24, "vggish": 16}
"""Widths after whitening."""


def write_files(folder: Path) -> None:
    """Write all six files."""
    random = np.random.default_rng(0)
    graph = inception(random).SerializeToString()
    with tarfile.open(folder / INCEPTION, "w:gz") as archive:
        member = tarfile.TarInfo(GRAPH)
        member.size = len(graph)
        archive.addfile(member, io.BytesIO(graph))
    write_vggish(folder / VGGISH, random)
    for name, width, scale in (("inception3", WIDTH, 0.2), ("vggish", SUMS, 0.05)):
        mean = random.normal(0, 0.1, (width, 1)).astype(np.float32)
        projection = (scale * random.normal(0, 1, (FEATURES[name], width))).astype(np.float32)
        (folder / f"{name}_mean_matrix_data.pb").write_bytes(matrix_data(mean))
        (folder / f"{name}_projection_matrix_data.pb").write_bytes(matrix_data(projection))


def matrix_data(matrix: NDArray[np.float32], *, row_major: bool = False) -> bytes:
    """Return MediaPipe's `MatrixData`."""
    rows, columns = matrix.shape
    values = matrix.tobytes(order="C" if row_major else "F")
    layout = varint(4 << 3) + varint(1) if row_major else b""
    return varint(1 << 3) + varint(rows) + varint(2 << 3) + varint(columns) + field(3, values) + layout


def inception(random: np.random.Generator) -> Any:
    """Return a graph with the operators and names of the Inception graph of 2015."""
    import tensorflow as tf

    v1 = tf.compat.v1
    graph = v1.GraphDef()
    # The old operators exist up to version 8 of the format.
    graph.versions.producer = 8
    kinds = {np.dtype(np.float32): tf.float32, np.dtype(np.int32): tf.int32}

    def node(name: str, op: str, *inputs: str, **attributes: Any) -> str:
        graph.node.append(v1.NodeDef(name=name, op=op, input=inputs, attr=attributes))
        return name

    def kind(type: Any = tf.float32) -> Any:
        return v1.AttrValue(type=type.as_datatype_enum)

    def numbers(*values: int) -> Any:
        return v1.AttrValue(list=v1.AttrValue.ListValue(i=values))

    def constant(name: str, value: Any) -> str:
        value = np.asarray(value)
        tensor = v1.AttrValue(tensor=tf.make_tensor_proto(value))
        return node(name, "Const", value=tensor, dtype=kind(kinds[value.dtype]))

    def conv(name: str, x: str, channels: tuple[int, int], side: int, stride: int = 1) -> str:
        kernel = random.normal(0, (2 / side**2 / channels[0]) ** 0.5, (side, side, *channels))
        params = constant(f"{name}/conv2d_params", kernel.astype(np.float32))
        same = v1.AttrValue(s=b"SAME")
        x = node(f"{name}/Conv2D", "Conv2D", x, params, T=kind(), padding=same, strides=numbers(1, stride, stride, 1))
        # The order of the operator's inputs: mean, variance, beta, gamma.
        ranges = {"moving_mean": (-0.1, 0.1), "moving_variance": (0.5, 2), "beta": (-0.1, 0.3), "gamma": (0.5, 1.5)}
        names = [
            constant(f"{name}/batchnorm/{part}", random.uniform(low, high, channels[1]).astype(np.float32))
            for part, (low, high) in ranges.items()
        ]
        scaled, epsilon = v1.AttrValue(b=name != "unscaled"), v1.AttrValue(f=0.001)
        node(
            f"{name}/batchnorm",
            "BatchNormWithGlobalNormalization",
            x,
            *names,
            T=kind(),
            variance_epsilon=epsilon,
            scale_after_normalization=scaled,
        )
        message = v1.AttrValue(s=b"batchnorm")
        node(f"{name}/CheckNumerics", "CheckNumerics", f"{name}/batchnorm", T=kind(), message=message)
        node(f"{name}/control_dependency", "Identity", f"{name}/batchnorm", f"^{name}/CheckNumerics", T=kind())
        return node(name, "Relu", f"{name}/control_dependency", T=kind())

    def pool(name: str, op: str, x: str, side: int, stride: int, padding: bytes) -> str:
        strides, sizes = numbers(1, stride, stride, 1), numbers(1, side, side, 1)
        return node(name, op, x, T=kind(), padding=v1.AttrValue(s=padding), strides=strides, ksize=sizes)

    node("DecodeJpeg/contents", "Placeholder", dtype=kind(tf.string))
    node("DecodeJpeg", "DecodeJpeg", "DecodeJpeg/contents", channels=v1.AttrValue(i=3))
    node("Cast", "Cast", "DecodeJpeg", SrcT=kind(tf.uint8), DstT=kind())
    node("ExpandDims", "ExpandDims", "Cast", constant("ExpandDims/dim", np.int32(0)), T=kind())
    size = constant("ResizeBilinear/size", np.array([SIDE, SIDE], np.int32))
    node("ResizeBilinear", "ResizeBilinear", "ExpandDims", size, T=kind())
    node("Sub", "Sub", "ResizeBilinear", constant("Sub/y", np.float32(128)), T=kind())
    x = node("Mul", "Mul", "Sub", constant("Mul/y", np.float32(1 / 128)), T=kind())
    x = conv("conv", x, (3, 8), 3, 2)
    x = pool("pool", "MaxPool", x, 3, 2, b"VALID")
    branches = [conv("mixed/conv", x, (8, 24), 1), conv("unscaled", x, (8, 24), 3)]
    axis = constant("mixed/join/concat_dim", np.int32(3))
    x = node("mixed/join", "Concat", axis, *branches, T=kind(), N=v1.AttrValue(i=2))
    pool("pool_3", "AvgPool", x, 18, 1, b"VALID")
    shape = constant("pool_3/_reshape/shape", np.array([1, WIDTH], np.int32))
    node("pool_3/_reshape", "Reshape", "pool_3", shape, T=kind())
    return graph


def write_vggish(path: Path, random: np.random.Generator) -> None:
    """Write a checkpoint in TensorFlow's first format, one file, as VGGish's is."""
    import tensorflow as tf

    v1 = tf.compat.v1
    widths = (1, 4, 4, 6, 6, 8, 8)
    with tf.Graph().as_default(), v1.Session() as session:

        def layer(name: str, shape: tuple[int, ...]) -> None:
            deviation = (2 / np.prod(shape[:-1])) ** 0.5
            v1.get_variable(f"vggish/{name}/weights", initializer=random.normal(0, deviation, shape).astype(np.float32))
            v1.get_variable(f"vggish/{name}/biases", initializer=random.normal(0, 0.1, shape[-1:]).astype(np.float32))

        for number, name in enumerate(one for block in BLOCKS for one in block):
            layer(name, (3, 3, *widths[number : number + 2]))
        for name, shape in zip(DENSE, ((6 * 4 * widths[-1], 40), (40, 40), (40, SUMS)), strict=True):
            layer(name, shape)
        session.run(v1.global_variables_initializer())
        v1.train.Saver(write_version=v1.train.SaverDef.V1).save(
            session, str(path), write_meta_graph=False, write_state=False
        )
