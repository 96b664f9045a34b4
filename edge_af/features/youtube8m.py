"""Make the extractor of YouTube-8M's features from the files that Google publishes.

Visual: the Inception graph of 2015-12-05 up to `pool_3`. Audio: VGGish (Hershey et al. 2017, arXiv:1609.09430) up to the
sums of its last layer. Both: a PCA with whitening, limited to ±2 as in the release. The pipeline is that of MediaPipe
(mediapipe/graphs/youtube8m/feature_extraction.pbtxt), where frames are scaled by TensorFlow instead of FFmpeg.
"""

from __future__ import annotations

import shutil
import struct
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_af.console import say, warn
from edge_af.data.tfrecord import tensorflow
from edge_af.errors import EdgeAfError
from edge_af.features.clips import ClipOptions, make_clips
from edge_af.features.collect import find_videos
from edge_af.features.download import download
from edge_af.features.extractor import DESCRIPTION, Extractor, load_extractor
from edge_af.features.logmel import Patches
from edge_af.features.tflite import PRECISIONS, to_tflite
from edge_af.features.video import Frame, open_video
from edge_af.files import sha256_file, staged_folder, write_atomic, write_json
from edge_af.options import option
from edge_af.protobuf import fields

T = TypeVar("T")

NAME = "youtube-8m"
INCEPTION, VGGISH = "inception-2015-12-05.tgz", "vggish_model.ckpt"
URLS = {
    INCEPTION: "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz",
    VGGISH: "https://storage.googleapis.com/audioset/vggish_model.ckpt",
    **{
        f"{network}_{part}_matrix_data.pb": f"http://data.yt8m.org/pca_matrix_data/{network}_{part}_matrix_data.pb"
        for network in ("inception3", "vggish")
        for part in ("mean", "projection")
    },
}
SHA256: dict[str, str] = {}
"""Hashes by file name. The publishers state none."""
LICENSE = (
    "Google publishes the networks and matrices of this extractor without a license beside them. The code that used them\n"
    "is Apache-2.0, and YouTube-8M's features are CC BY 4.0. Whether you may use the files is for you to decide."
)
GRAPH = "classify_image_graph_def.pb"
"""The graph's name in the archive."""
FEATURES = "pool_3/_reshape:0"
BLOCKS = (("conv1",), ("conv2",), ("conv3/conv3_1", "conv3/conv3_2"), ("conv4/conv4_1", "conv4/conv4_2"))
"""VGGish's convolutions; the largest of each 2 × 2 values remain after a block."""
DENSE = ("fc1/fc1_1", "fc1/fc1_2", "fc2")
"""VGGish's dense layers. The last has no activation function."""
LIMIT = 2.0
"""The release codes values between ±2."""
SOURCES = "sources.json"
OURS = (SOURCES, *(f"{one}/*" for one in PRECISIONS))
"""Files of an output."""
MOST_INPUTS = 200
"""Frames, and patches of sound, that find the activation ranges."""
FP32_TOLERANCE = 1e-3
"""Largest difference of an FP32 file from the float graph, as a share of the largest feature."""
LEAST_COSINE = 0.98
"""Cosine similarity of INT8 features to the float graph's, below which a warning is shown."""


@dataclass(frozen=True)
class FetchOptions:
    """Options of fetching an extractor."""

    source: str | None = option(
        "Folder or address that has the files, instead of their publishers'.",
        flag="--from",
        default=None,
        metavar="FOLDER|URL",
    )
    calibration_videos: tuple[Path, ...] = option(
        "Videos, or folders of them, that find the activation ranges. Repeatable.",
        default=(),
        shown_default="synthetic clips",
    )


Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a batch of one to features (1, features)."""


@dataclass(frozen=True)
class _Half:
    """One of the two networks, with what is needed to convert and verify it."""

    name: str
    """`visual` or `audio`."""
    function: Any
    """The `tf.function` to convert."""
    reference: Network
    """The float graph."""
    inputs: list[NDArray[np.float32]]
    mean: NDArray[np.float32]
    projection: NDArray[np.float32]


def fetch(out: Path, options: FetchOptions, *, overwrite: bool = False) -> dict[str, Any]:
    """Download the published files, and write the extractors `out`/int8 and `out`/fp32; return their `sources.json`.

    Call `check` first. An interrupted download continues when called again.

    Raises:
        EdgeAfError: a file is unavailable or not of the expected form, a converted network disagrees with its float
            graph, or `out` is taken.
    """
    downloads = out.resolve().with_name(f".{out.resolve().name}.downloads")
    with staged_folder(out, OURS, overwrite=overwrite) as stage:
        downloads.mkdir(parents=True, exist_ok=True)
        origins = {name: _origin(name, options.source) for name in URLS}
        files = {name: _obtained(name, origin, downloads) for name, origin in origins.items()}
        halves, side = _halves(files, options.calibration_videos)
        found = {
            "files": {
                name: {"origin": origins[name], "size_bytes": path.stat().st_size, "sha256": sha256_file(path)}
                for name, path in files.items()
            },
            "cosine_to_float_graph": {one: _write(stage / one, one, halves, side) for one in PRECISIONS},
        }
        write_json(stage / SOURCES, found)
    shutil.rmtree(downloads)
    return found


def check(options: FetchOptions) -> None:
    """Refuse sources and videos that are not there.

    Raises:
        EdgeAfError: names them.
    """
    source = options.source
    if source is not None and "://" in source:
        if not source.startswith(("http://", "https://")):
            raise EdgeAfError(f"--from {source}: expected a folder, or an address with http:// or https://.")
    elif source is not None:
        if not Path(source).is_dir():
            raise EdgeAfError(f"--from {source}: no such folder.")
        if missing := [name for name in URLS if not (Path(source) / name).is_file()]:
            raise EdgeAfError(
                f"--from {source}: lacks {', '.join(missing)}. {missing[0]} is published at {URLS[missing[0]]}."
            )
    find_videos(options.calibration_videos)


def _origin(name: str, source: str | None) -> str:
    """Return the address or the path of a file."""
    return URLS[name] if source is None else f"{source.rstrip('/')}/{name}"


def _obtained(name: str, origin: str, folder: Path) -> Path:
    """Return the path of a file, downloaded if its origin is an address."""
    if "://" not in origin:
        return Path(origin)
    download(origin, folder / name, sha256=SHA256.get(name))
    return folder / name


def _read(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file; a damaged one is not kept for a later call."""
    try:
        return read(path)
    except EdgeAfError:
        path.with_name(f"{path.name}.url").unlink(missing_ok=True)
        raise


def _halves(files: dict[str, Path], videos: Sequence[Path]) -> tuple[list[_Half], int]:
    """Return both networks, and the side of the frames in pixels."""
    graph = _read(files[INCEPTION], read_graph)
    side = side_of(graph)
    frames, patches = _inputs(videos, side)
    say(f"{len(frames)} frames and {len(patches)} patches of sound find the activation ranges")
    vggish = _read(files[VGGISH], vggish_function)
    inception = inception_function(without_old_operators(graph))
    functions = {
        "visual": (inception, original(graph), frames, "inception3"),
        "audio": (vggish, lambda patch: vggish(patch).numpy(), patches, "vggish"),
    }
    halves = []
    for name, (function, reference, inputs, prefix) in functions.items():
        mean, projection = (
            _read(files[f"{prefix}_{part}_matrix_data.pb"], read_matrix) for part in ("mean", "projection")
        )
        width = reference(inputs[0]).shape[-1]
        mean = mean.reshape(-1)
        # MediaPipe multiplies the matrix by a column of features.
        projection = projection.T if projection.shape[1] == width else projection
        if mean.shape != (width,) or projection.shape[0] != width:
            raise EdgeAfError(
                f"{prefix}: the network has {width} features, which do not fit a mean of {mean.shape[0]} "
                f"and a projection of {projection.shape[0]} × {projection.shape[1]}."
            )
        halves.append(_Half(name, function, reference, inputs, mean, projection))
    return halves, side


def _inputs(videos: Sequence[Path], side: int) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Return frames (1, side, side, 3), and patches of sound (1, 96, 64)."""
    frames: list[NDArray[np.float32]] = []
    sounds: list[NDArray[np.float32]] = []
    with tempfile.TemporaryDirectory() as folder:
        if not videos:
            make_clips(Path(folder) / "clips", ClipOptions(clips=2, seconds=4))
            videos = [Path(folder) / "clips"]
        for video in find_videos(videos):
            patches = Patches()
            with open_video(video, side, side) as opened:
                for event in opened.events():
                    if isinstance(event, Frame):
                        frames.append(event.pixels[np.newaxis].astype(np.float32))
                    else:
                        sounds += [one[np.newaxis] for one in patches.take(event.samples)]
            sounds += [one[np.newaxis] for one in patches.end()]
            if len(frames) > MOST_INPUTS and len(sounds) > MOST_INPUTS:
                break
    if not frames or not sounds:
        raise EdgeAfError("--calibration-videos: they must have pictures and sound.")
    return frames[:MOST_INPUTS], sounds[:MOST_INPUTS]


def _write(folder: Path, precision: str, halves: list[_Half], side: int) -> dict[str, dict[str, float]]:
    """Write one extractor; return the least cosine similarity to the float graph, before and after whitening."""
    import yaml

    folder.mkdir()
    description: dict[str, Any] = {"name": NAME, "license": "not stated by the publisher"}
    sizes = {"visual": {"width": side, "height": side}, "audio": {}}
    names = {"visual": "inception-2015-12-05", "audio": "vggish"}
    for half in halves:
        file = f"{half.name}.tflite"
        say(f"converting {names[half.name]} to {precision.upper()}")
        write_atomic(folder / file, to_tflite(half.function, half.inputs, precision))
        np.save(folder / f"{half.name}-mean.npy", half.mean)
        np.save(folder / f"{half.name}-projection.npy", half.projection)
        whitening = {
            "mean": f"{half.name}-mean.npy",
            "projection": f"{half.name}-projection.npy",
            "limit": LIMIT,
        }
        description[half.name] = {"name": names[half.name], "file": file, **sizes[half.name], "whitening": whitening}
    write_atomic(folder / DESCRIPTION, yaml.safe_dump(description, sort_keys=False))
    extractor = load_extractor(folder)
    return {half.name: _verified(half, extractor, precision) for half in halves}


def _verified(half: _Half, extractor: Extractor, precision: str) -> dict[str, float]:
    """Compare a converted network with its float graph, before and after whitening."""
    network = extractor.networks[half.name]
    exact = np.concatenate([half.reference(one) for one in half.inputs]).astype(np.float64)
    found = np.concatenate([network(one).reshape(1, -1) for one in half.inputs])
    difference = float(np.abs(found - exact).max() / np.abs(exact).max())
    if precision == "fp32" and not difference <= FP32_TOLERANCE:
        raise EdgeAfError(
            f"{half.name}: the converted network differs from the float graph by {difference:.1e} of its largest feature."
        )
    whitened = ((exact - half.mean) @ half.projection).clip(-LIMIT, LIMIT)
    own = np.stack([extractor.whitened(half.name, one) for one in found])
    cosines = {"features": _least_cosine(found, exact), "whitened": _least_cosine(own, whitened)}
    if min(cosines.values()) < LEAST_COSINE:
        warn(
            f"{half.name} in {precision.upper()}: cosine similarity to the float graph {cosines['features']:.3f}, "
            f"{cosines['whitened']:.3f} after whitening. More natural --calibration-videos may help; or use fp32."
        )
    return cosines


def _least_cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / np.maximum(norms, 1e-12)).min())


def read_matrix(path: Path) -> NDArray[np.float32]:
    """Read a matrix of MediaPipe's message `MatrixData` (rows 1, cols 2, packed floats 3, layout 4).

    Raises:
        EdgeAfError: it is not such a file.
    """
    data = path.read_bytes()
    shape, row_major, values = {1: 0, 2: 0}, False, b""
    try:
        for number, value in fields(data, 0, len(data)):
            if number in shape and isinstance(value, int):
                shape[number] = value
            elif number == 3 and not isinstance(value, int):
                values += data[slice(*value)]
            elif number == 4:
                row_major = value == 1
        matrix = np.frombuffer(values, "<f4").reshape(shape[1], shape[2], order="C" if row_major else "F")
    except (ValueError, IndexError, struct.error) as error:
        raise EdgeAfError(f"{path.name}: is not a matrix of MediaPipe ({error}).") from None
    if not matrix.size or not np.isfinite(matrix).all():
        raise EdgeAfError(f"{path.name}: is empty or has NaN in it.")
    return np.ascontiguousarray(matrix)


def read_graph(path: Path) -> Any:
    """Return the graph (`tf.compat.v1.GraphDef`) in the archive of Inception.

    Raises:
        EdgeAfError: it is not that archive.
    """
    try:
        with tarfile.open(path) as archive:
            member = next((one for one in archive if Path(one.name).name == GRAPH and one.isfile()), None)
            file = archive.extractfile(member) if member is not None else None
            data = file.read() if file is not None else None
    except (tarfile.TarError, OSError, EOFError) as error:
        raise EdgeAfError(f"{path.name}: is not a readable archive ({error}).") from None
    if data is None:
        raise EdgeAfError(f"{path.name}: has no {GRAPH}.")
    try:
        return tensorflow().compat.v1.GraphDef.FromString(data)
    except Exception as error:  # protobuf's DecodeError, whose module depends on its version.
        raise EdgeAfError(f"{path.name}: {GRAPH} is damaged ({error}).") from None


def _resize(graph: Any) -> Any:
    """Return the node that scales a frame to the network's size."""
    nodes = [node for node in graph.node if node.op == "ResizeBilinear"]
    if len(nodes) != 1 or FEATURES.partition(":")[0] not in {node.name for node in graph.node}:
        raise EdgeAfError(f"{INCEPTION}: the graph is not that of 2015-12-05: it lacks {FEATURES} or its scaling.")
    return nodes[0]


def side_of(graph: Any) -> int:
    """Return the height and width of the network's frames in pixels."""
    size = _constants(graph)[_resize(graph).input[1]]
    return int(size[0])


def _constants(graph: Any) -> dict[str, NDArray[Any]]:
    tf = tensorflow()
    return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in graph.node if node.op == "Const"}


def without_old_operators(graph: Any) -> Any:
    """Return the graph with a product and a sum in place of BatchNormWithGlobalNormalization, and without checks for NaN.

    TFLite has none of these.
    """
    tf = tensorflow()
    constants, kept = _constants(graph), tf.compat.v1.GraphDef()
    kept.CopyFrom(graph)
    del kept.node[:]

    def constant(name: str, value: NDArray[Any]) -> str:
        attributes = {"dtype": tf.compat.v1.AttrValue(type=tf.float32.as_datatype_enum)}
        attributes["value"] = tf.compat.v1.AttrValue(tensor=tf.make_tensor_proto(value))
        kept.node.append(tf.compat.v1.NodeDef(name=name, op="Const", attr=attributes))
        return name

    floats = {"T": tf.compat.v1.AttrValue(type=tf.float32.as_datatype_enum)}
    for node in graph.node:
        if node.op == "BatchNormWithGlobalNormalization":
            mean, variance, beta, gamma = (constants[name] for name in node.input[1:])
            scale = 1 / np.sqrt(variance + np.float32(node.attr["variance_epsilon"].f))
            scale *= gamma if node.attr["scale_after_normalization"].b else 1
            product, factor = f"{node.name}/product", constant(f"{node.name}/factor", scale)
            inputs = [node.input[0], factor]
            kept.node.append(tf.compat.v1.NodeDef(name=product, op="Mul", input=inputs, attr=floats))
            inputs = [product, constant(f"{node.name}/term", beta - mean * scale)]
            kept.node.append(tf.compat.v1.NodeDef(name=node.name, op="Add", input=inputs, attr=floats))
            continue
        kept.node.append(node)
        if node.op == "CheckNumerics":
            del kept.node[-1].attr["message"]
            kept.node[-1].op = "Identity"
    return kept


def inception_function(graph: Any) -> Any:
    """Return the network as a `tf.function`: pixels (1, side, side, 3) in [0, 255] to features (1, n)."""
    tf = tensorflow()
    resized = f"{_resize(graph).name}:0"
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph, name=""), [])
    pruned = imported.prune(imported.graph.as_graph_element(resized), imported.graph.as_graph_element(FEATURES))
    return tf.function(lambda pixels: tf.reshape(pruned(pixels), (1, -1)))


def original(graph: Any) -> Network:
    """Return a function that runs the published graph as it is, in a session of TensorFlow 1."""
    v1 = tensorflow().compat.v1
    with v1.Graph().as_default() as own:
        v1.import_graph_def(graph, name="")
    session, resized = v1.Session(graph=own), f"{_resize(graph).name}:0"

    def features(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(FEATURES, {resized: pixels})
        return found.reshape(1, -1)

    return features


def vggish_function(path: Path) -> Any:
    """Return VGGish as a `tf.function`: a log-mel patch (1, 96, 64) to the sums (1, 128) of its last layer.

    Raises:
        EdgeAfError: the file is not its checkpoint.
    """
    tf = tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(path))
        tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
        layers = {
            name: (tensors[f"vggish/{name}/weights"], tensors[f"vggish/{name}/biases"])
            for name in (*(one for block in BLOCKS for one in block), *DENSE)
        }
    except KeyError as error:
        raise EdgeAfError(f"{path.name}: is not VGGish's checkpoint: it lacks {error}.") from None
    except Exception as error:  # TensorFlow's errors have no common base class beside Exception.
        raise EdgeAfError(f"{path.name}: cannot be read as a checkpoint ({str(error).rpartition(': ')[2]}).") from None

    def sums(patch: Any) -> Any:
        x = patch[..., tf.newaxis]
        for block in BLOCKS:
            for name in block:
                kernel, bias = layers[name]
                x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
            x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = tf.reshape(x, (1, -1))
        for name in DENSE:
            kernel, bias = layers[name]
            x = tf.matmul(x, kernel) + bias
            x = tf.nn.relu(x) if name != DENSE[-1] else x
        return x

    return tf.function(sums)
