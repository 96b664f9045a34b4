"""The synthetic dataset: TFRecords in the layout of YouTube-8M's 2018 video-level files, from a seed.

What is in it, so that a classifier has something to learn and something to miss:

* A class is an activity in a place: `Harbour race`, `Harbour dance`, `Castle race`. Places and activities have a signature
  each, for the eye and for the ear; a class's signature is their sum and a little of its own. A network that finds the
  places and activities can tell a rare class that it has seen a few times; a linear model learns each class alone.
* Classes are drawn with Zipf's weights; a video has a place and about 3 labels, most of them there. So labels are long-tailed
  and go together.
* In every place there are groups of three classes that look the same and sound different: `Harbour parade (drums)`,
  `Harbour parade (flute)`, `Harbour parade (bells)`.
* A video is the sum of its labels' signatures at various strengths, of some that are seen or heard but not labeled, and of
  noise, all times a contrast (a volume) of its own. Undoing that takes more than a linear model.
* A video is shot in one of a few styles. A style turns the sign of some visual features of the signatures and leaves a
  mark of its own; a place prefers a style. A linear model can only use the average over the styles.
* Values lie on the grid of the real data's 8 bits, q·4/255 + 4/512 − 2, with its spread (0.46 visual, 0.69 audio).

The same bytes come out everywhere: random numbers are raw PCG64 output, whose stream numpy guarantees, and everything
after that is integer arithmetic or elementwise + − × ÷ √ in float64, which IEEE 754 fixes to the last bit. No matrix
product, no sum over floats whose order could vary, no exponential.
"""

from __future__ import annotations

import glob
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edge_af.console import Progress
from edge_af.data import AUDIO_FEATURES, VISUAL_FEATURES
from edge_af.data.examples import LOWEST, STEP, dequantize
from edge_af.data.tfrecord import masked_crc32c
from edge_af.files import read_json, staged_folder, write_atomic, write_json
from edge_af.options import check, option
from edge_af.protobuf import field, varint

PARTITIONS = ("train", "eval")
VOCABULARY = "vocabulary.csv"
MARKER = "made-up.json"
"""Tells a synthetic dataset from a real one, which has the same folders and file names: its options and its files' sizes."""

TOPIC_CLASSES = 12
"""Classes in a place, about."""
STRAY = 0.12
"""Share of the labels that are drawn from everywhere instead of the video's place."""
LABELS = (0.19, 0.26, 0.22, 0.14, 0.09, 0.06, 0.04)
"""Share of the videos with 1, 2, 3, … labels: 3.0 on average, as in YouTube-8M."""
UNLABELED = 2
"""Classes that a video shows, and others that it plays, without having their label."""

SHARED, OWN = 0.62, 0.48
"""Strengths of the signatures of the place, of the activity, and of the class itself within a class's signature."""
SIGNAL = 0.27
"""Strength of a label's signature, next to noise of 1."""
STYLES = 4
STYLE_MARK = 0.5
"""Strength of a style's own mark, next to noise of 1."""
TURNED = 0.2
"""Share of the visual features whose sign a style turns."""
PREFERRED = 0.55
"""Share of a place's videos that are shot in the style it prefers."""
GAIN = (0.5, 1.5)
"""A video's contrast and its volume lie between these."""

VISUAL_SCALE, AUDIO_SCALE = 0.46 / 1.43, 0.69 / 1.3
"""Bring the features to the spread of the 2018 validate partition, 0.46 and 0.69."""

CHUNK = 500
"""Videos made at a time."""
SHARD = 4000
"""Videos in a file; a multiple of CHUNK."""

FOUR_BYTES_SD = float(np.sqrt(4 * (256**2 - 1) / 12))
"""Standard deviation of the sum of four random bytes."""

THEMES = (  # noqa: SIM905 - sixty lines otherwise
    "Harbour Orchard Mountain Desert River Castle Garden Island Railway Market Village Forest Canyon Lagoon Meadow Glacier "
    "Lighthouse Vineyard Quarry Prairie Bazaar Monastery Stadium Rooftop Savanna Marsh Valley Workshop Theatre Volcano "
    "Bridge Farm Tundra Cavern Terrace Wharf Plateau Chapel Arcade Dune"
).split()
ACTIVITIES = (  # noqa: SIM905
    "race parade festival picnic regatta dance puppets kites cooking repair fair wedding carving juggling pottery archery "
    "skating weaving"
).split()
SOUNDS = ("drums", "flute", "bells")
GROUPS_START = (1, 6)
"""Ranks of a place's classes, by falling frequency, where groups of three that look the same begin."""


@dataclass(frozen=True)
class SynthOptions:
    """Size and seed of a synthetic dataset."""

    videos_train: int = option("Videos in OUT/train.", default=12000, at_least=1)
    videos_eval: int = option("Videos in OUT/eval.", default=2000, at_least=1)
    classes: int = option("Number of classes.", default=400, at_least=10, at_most=65536)
    seed: int = option("Random seed of everything.", default=0, at_least=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class World:
    """Constants that all videos of a seed share."""

    names: list[str]
    topic: NDArray[np.int64]
    """(classes,): the place of each class."""
    weight: NDArray[np.float64]
    """(classes,): how often a class is drawn, relative to the others."""
    look: NDArray[np.int64]
    """(classes,): the class whose visual signature it has: its own, or that of its group's first."""
    visual: NDArray[np.float64]
    """(classes, 1024) signatures, variance about 1."""
    audio: NDArray[np.float64]
    """(classes, 128) signatures, variance about 1."""
    turns: NDArray[np.float64]
    """(STYLES, 1024): -1 where a style turns the sign, else 1."""
    marks: NDArray[np.float64]
    """(STYLES, 1024): what a style adds."""


@dataclass(frozen=True)
class SyntheticVideos:
    """Choices that decide the features of a partition's n videos, except for the noise."""

    labels: NDArray[np.int64]
    """(n, len(LABELS)), -1 where there are fewer."""
    seen: NDArray[np.int64]
    """(n, UNLABELED) classes that show, and `heard` those that sound, without being labels."""
    heard: NDArray[np.int64]
    style: NDArray[np.int64]
    """(n,)"""
    strength: NDArray[np.float64]
    """(2, n, len(LABELS)): of each label's signature, visual and audio."""
    gain: NDArray[np.float64]
    """(2, n): contrast and volume."""


class Stream:
    """Random numbers for one purpose, whatever others take for theirs."""

    def __init__(self, seed: int, *purpose: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, *purpose]))

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """In [0, 1), multiples of 2^-53."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def noise(self, *shape: int) -> NDArray[np.float64]:
        """About normal, mean 0, variance 1: the sum of four bytes."""
        count = int(np.prod(shape))
        four = self._bits.random_raw(-(-count // 2)).astype("<u8").view(np.uint8).reshape(-1, 4)[:count]
        # Column by column: numpy's own sum over so short an axis takes five times as long.
        total = four[:, 0].astype(np.int64) + four[:, 1] + four[:, 2] + four[:, 3] - 510
        return (total / FOUR_BYTES_SD).reshape(shape)


WORLD_VISUAL, WORLD_AUDIO, WORLD_TURNS, WORLD_MARKS, VIDEOS, NOISE = range(1, 7)
"""Purposes of streams."""


def make_world(classes: int, seed: int) -> World:
    """Places, activities, classes, their signatures, and styles."""
    topics = max(2, classes // TOPIC_CLASSES)
    rank = np.arange(classes)
    topic, place = rank % topics, rank // topics
    weight = 1.0 / (rank + 3)
    look = rank.copy()
    for first in GROUPS_START:
        for leader in rank[place == first]:
            members = leader + topics * np.arange(len(SOUNDS))
            if members[-1] < classes:
                look[members] = leader
                # Equally frequent, so that nothing but the sound tells them apart.
                weight[members] = weight[members[1]]
    return World(
        names=_names(look, topics),
        topic=topic,
        weight=weight,
        look=look,
        visual=_signatures(Stream(seed, WORLD_VISUAL), topic, place, VISUAL_FEATURES)[look],
        audio=_signatures(Stream(seed, WORLD_AUDIO), topic, place, AUDIO_FEATURES),
        turns=np.where(Stream(seed, WORLD_TURNS).uniform(STYLES, VISUAL_FEATURES) < TURNED, -1.0, 1.0),
        marks=Stream(seed, WORLD_MARKS).noise(STYLES, VISUAL_FEATURES),
    )


def _signatures(
    stream: Stream, topic: NDArray[np.int64], place: NDArray[np.int64], features: int
) -> NDArray[np.float64]:
    topics = stream.noise(int(topic.max()) + 1, features)
    activities = stream.noise(int(place.max()) + 1, features)
    own = stream.noise(len(topic), features)
    return SHARED * (topics[topic] + activities[place]) + OWN * own


def _names(look: NDArray[np.int64], topics: int) -> list[str]:
    """A name per class: its place and activity, and the sound where only that tells it from others."""
    members = np.bincount(look, minlength=len(look))
    names = []
    for index, leader in enumerate(look.tolist()):
        topic, activity = leader % topics, ACTIVITIES[leader // topics]
        again = f" {topic // len(THEMES) + 1}" if topic >= len(THEMES) else ""
        sound = f" ({SOUNDS[(index - leader) // topics]})" if members[leader] > 1 else ""
        names.append(f"{THEMES[topic % len(THEMES)]}{again} {activity}{sound}")
    return names


def make_videos(world: World, options: SynthOptions, partition: str) -> SyntheticVideos:
    """Draw the videos of `train` or `eval`."""
    number = PARTITIONS.index(partition)
    videos = (options.videos_train, options.videos_eval)[number]
    draw = Stream(options.seed, VIDEOS, number)
    topics = int(world.topic.max()) + 1

    # A ladder of cumulative weights, the classes of a place side by side: a random height on it is a class.
    order = np.argsort(world.topic, kind="stable")
    ladder = np.concatenate([[0.0], np.cumsum(world.weight[order])])
    bounds = ladder[np.searchsorted(world.topic[order], np.arange(topics + 1))]
    topic = np.minimum(np.searchsorted(bounds[1:], draw.uniform(videos) * ladder[-1], side="right"), topics - 1)

    def classes_of(columns: int, stray: float) -> NDArray[np.int64]:
        """(videos, columns) classes: from the video's place or, with probability `stray`, from everywhere."""
        low, high = bounds[topic, None], bounds[topic + 1, None]
        here = low + draw.uniform(videos, columns) * (high - low)
        anywhere = draw.uniform(videos, columns) * ladder[-1]
        height = np.where(draw.uniform(videos, columns) < stray, anywhere, here)
        return order[np.clip(np.searchsorted(ladder, height, side="right") - 1, 0, len(order) - 1)]

    # More candidates than labels, because some come up twice: the first different ones are taken.
    most = len(LABELS)
    wanted = 1 + np.searchsorted(np.cumsum(LABELS[:-1]), draw.uniform(videos), side="right")
    labels = np.full((videos, most), -1, np.int64)
    found = np.zeros(videos, np.int64)
    for candidate in classes_of(3 * most, STRAY).T:
        fresh = (found < wanted) & ~(labels == candidate[:, None]).any(axis=1)
        labels[fresh, found[fresh]] = candidate[fresh]
        found += fresh
    any_style = np.minimum((draw.uniform(videos) * STYLES).astype(np.int64), STYLES - 1)
    return SyntheticVideos(
        labels=labels,
        seen=classes_of(UNLABELED, 0.5),
        heard=classes_of(UNLABELED, 0.5),
        style=np.where(draw.uniform(videos) < PREFERRED, topic % STYLES, any_style),
        strength=np.stack([0.5 + draw.uniform(videos, most), 0.3 + 1.4 * draw.uniform(videos, most)]),
        gain=GAIN[0] + draw.uniform(2, videos) * (GAIN[1] - GAIN[0]),
    )


def make_features(
    world: World, videos: SyntheticVideos, noise: Stream, rows: slice
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Features of the videos `rows` as bytes of the grid: visual (n, 1024) and audio (n, 128), uint8."""
    labels, style = videos.labels[rows], videos.style[rows]
    blocks = []
    for side, signatures, unlabeled in ((0, world.visual, videos.seen[rows]), (1, world.audio, videos.heard[rows])):
        values = np.zeros((len(labels), signatures.shape[1]))
        for slot in range(labels.shape[1]):
            has = np.flatnonzero(labels[:, slot] >= 0)
            values[has] += videos.strength[side, rows][has, slot, None] * signatures[labels[has, slot]]
        for slot in range(UNLABELED):
            values += 0.6 * signatures[unlabeled[:, slot]]
        values *= SIGNAL
        if side == 0:
            values *= world.turns[style]
            values += STYLE_MARK * world.marks[style]
        values += noise.noise(*values.shape)
        values *= (VISUAL_SCALE, AUDIO_SCALE)[side] * videos.gain[side, rows, None]
        blocks.append(np.clip(np.floor((values - LOWEST) / STEP + 0.5), 0, 255).astype(np.uint8))
    return blocks[0], blocks[1]


def synthesize(out: Path, options: SynthOptions | None = None, *, overwrite: bool = False) -> dict[str, Any]:
    """Write a synthetic dataset: `out`/train/train00.tfrecord …, `out`/eval/eval00.tfrecord …, `out`/vocabulary.csv,
    and `out`/made-up.json, by which a later run knows what it may overwrite.

    Returns its figures. The files are plain TFRecords, because what GZIP makes of the same bytes depends on its version.

    Raises:
        EdgeAfError: `out` holds something already (unless `overwrite`, and all of it is of this making), or cannot be written.
    """
    options = options or SynthOptions()
    world = make_world(options.classes, options.seed)
    labels = {}
    total = options.videos_train + options.videos_eval
    ours = _own_files(out) if overwrite else []
    with staged_folder(out, ours, overwrite=overwrite) as stage, Progress("synth", total, "videos") as progress:
        rows = "".join(f"{index},{name}\n" for index, name in enumerate(world.names))
        write_atomic(stage / VOCABULARY, f"index,name\n{rows}")
        for number, partition in enumerate(PARTITIONS):
            videos = make_videos(world, options, partition)
            labels[partition] = int((videos.labels >= 0).sum())
            noise = Stream(options.seed, NOISE, number)
            (stage / partition).mkdir()
            for start in range(0, len(videos.labels), CHUNK):
                part = slice(start, min(start + CHUNK, len(videos.labels)))
                codes = make_features(world, videos, noise, part)
                ids = [f"{partition[:2]}{index:08d}".encode() for index in range(part.start, part.stop)]
                with (stage / partition / f"{partition}{start // SHARD:02d}.tfrecord").open("ab") as file:
                    write_records(file, list(_examples(ids, videos.labels[part], *codes)))
                progress.update(part.stop - part.start)
        files = sorted(path for path in stage.rglob("*") if path.is_file())
        sizes = {path.relative_to(stage).as_posix(): path.stat().st_size for path in files}
        write_json(stage / MARKER, {"made_by": "edge-af data synth", "options": asdict(options), "files": sizes})
    return {
        "path": str(out),
        **asdict(options),
        "labels_per_video": {
            "train": round(labels["train"] / options.videos_train, 4),
            "eval": round(labels["eval"] / options.videos_eval, 4),
        },
    }


def _own_files(out: Path) -> list[str]:
    """Patterns of the files in `out` that an earlier run wrote: those that its marker names, of the size it names."""
    if not (out / MARKER).is_file():
        return []
    marker = read_json(out / MARKER, "note of a synthetic dataset")
    sizes = marker.get("files") if isinstance(marker, dict) else None
    if not isinstance(sizes, dict):
        return []
    own = [name for name, size in sizes.items() if (out / name).is_file() and (out / name).stat().st_size == size]
    return [MARKER, *map(glob.escape, own)]


def _examples(
    ids: list[bytes], labels: NDArray[np.int64], visual: NDArray[np.uint8], audio: NDArray[np.uint8]
) -> Iterator[bytes]:
    """Serialized `Example`s, the features in a fixed order (a protobuf map has none of its own)."""
    grid = dequantize(np.arange(256)).astype("<f4")
    for video_id, row, rgb, sound in zip(ids, labels, grid[visual], grid[audio], strict=True):
        numbers = b"".join(varint(label) for label in np.sort(row[row >= 0]).tolist())
        features = (
            _feature(b"id", 1, video_id),
            _feature(b"labels", 3, numbers),
            _feature(b"mean_rgb", 2, rgb.tobytes()),
            _feature(b"mean_audio", 2, sound.tobytes()),
        )
        yield field(1, b"".join(features))


def _feature(key: bytes, kind: int, payload: bytes) -> bytes:
    """An entry of `Features.feature`: kind 1 is a BytesList, 2 a packed FloatList, 3 a packed Int64List (example.proto)."""
    return field(1, field(1, key) + field(2, field(kind, field(1, payload))))


def write_records(file: BinaryIO, records: list[bytes]) -> None:
    """Append records to a TFRecord file (its framing: `edge_af.data.tfrecord`)."""
    lengths = [struct.pack("<Q", len(record)) for record in records]
    for record, length, of_length, of_record in zip(
        records, lengths, _checksums(lengths), _checksums(records), strict=True
    ):
        file.write(length + struct.pack("<I", of_length) + record + struct.pack("<I", of_record))


def _checksums(records: list[bytes]) -> list[int]:
    """Masked CRC-32C of each, those of the same length together."""
    lengths = np.fromiter(map(len, records), np.int64, len(records))
    sums = np.zeros(len(records), np.uint32)
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        joined = np.frombuffer(b"".join(records[row] for row in rows), np.uint8)
        sums[rows] = masked_crc32c(joined.reshape(len(rows), length))
    return sums.tolist()
