"""The synthetic dataset: TFRecords in the layout of YouTube-8M's 2018 video-level files, generated from a seed.

It is built so that a better classifier scores better:

* A class is an activity in a place: `Harbour race`, `Harbour dance`, `Castle race`. Each place and activity has a visual
  and an audio signature. A class's signature is their sum plus a small part of its own. A network that finds places and
  activities can recognize a rare class after a few examples; a linear model learns each class alone.
* Classes are drawn with Zipf weights. A video has one place and about 3 labels, most of them in that place. So labels are
  long-tailed and correlated.
* Every place has groups of three classes that look the same and sound different: `Harbour parade (drums)`,
  `Harbour parade (flute)`, `Harbour parade (bells)`.
* A video is the sum of its labels' signatures at various strengths, of a few unlabeled signatures, and of noise, multiplied
  by the video's contrast (volume). A linear model cannot undo that.
* A video has one of a few styles. A style flips the sign of some visual features and adds a pattern. Each place prefers
  one style. A linear model can only use the average over the styles.
* Values lie on the 8-bit grid of the real data, q·4/255 + 4/512 − 2, with its standard deviation (0.46 visual, 0.69 audio).

The bytes are the same on every machine. Random numbers are raw PCG64 output, whose stream numpy guarantees. The rest is
integer arithmetic, or elementwise + − × ÷ √ in float64, which IEEE 754 defines exactly. There is no matrix product, no
float sum whose order could vary, and no exponential.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_af.console import Progress
from edge_af.data import AUDIO_FEATURES, VISUAL_FEATURES
from edge_af.data.examples import LOWEST, STEP, dequantize
from edge_af.data.records import video_record, write_records
from edge_af.files import read_json, staged_folder, write_atomic, write_json
from edge_af.options import check, option

PARTITIONS = ("train", "eval")
VOCABULARY = "vocabulary.csv"
MARKER = "made-up.json"
"""Marker file of a synthetic dataset, with its options and file sizes; a real one has the same folders and file names."""

TOPIC_CLASSES = 12
"""Approximate number of classes per place."""
STRAY = 0.12
"""Share of the labels drawn from all places instead of the video's."""
LABELS = (0.19, 0.26, 0.22, 0.14, 0.09, 0.06, 0.04)
"""Shares of the videos with 1, 2, 3, … labels; the mean is 3.0, as in YouTube-8M."""
UNLABELED = 2
"""Number of unlabeled visual signatures in a video, and of unlabeled audio signatures."""

SHARED, OWN = 0.62, 0.48
"""Strengths of the place's, the activity's and the class's own part in a class's signature."""
SIGNAL = 0.27
"""Strength of a label's signature relative to noise of 1."""
STYLES = 4
STYLE_MARK = 0.5
"""Strength of a style's pattern relative to noise of 1."""
TURNED = 0.2
"""Share of the visual features whose sign a style flips."""
PREFERRED = 0.55
"""Share of a place's videos in its preferred style."""
GAIN = (0.5, 1.5)
"""Range of a video's contrast and volume."""

VISUAL_SCALE, AUDIO_SCALE = 0.46 / 1.43, 0.69 / 1.3
"""Scale the features to the standard deviation of the 2018 validate partition, 0.46 and 0.69."""

CHUNK = 500
"""Videos generated at a time."""
SHARD = 4000
"""Videos per file, a multiple of CHUNK."""

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
"""First ranks, by falling frequency, of a place's groups of three classes that look the same."""


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
    """Constants shared by all videos of a seed."""

    names: list[str]
    topic: NDArray[np.int64]
    """(classes,), the place of each class."""
    weight: NDArray[np.float64]
    """(classes,), relative frequency of each class."""
    look: NDArray[np.int64]
    """(classes,), the class whose visual signature each class has: its own, or the first of its group."""
    visual: NDArray[np.float64]
    """(classes, 1024) signatures, variance about 1."""
    audio: NDArray[np.float64]
    """(classes, 128) signatures, variance about 1."""
    turns: NDArray[np.float64]
    """(STYLES, 1024), -1 where a style flips the sign, else 1."""
    marks: NDArray[np.float64]
    """(STYLES, 1024), the pattern that a style adds."""


@dataclass(frozen=True)
class SyntheticVideos:
    """Random choices for a partition's n videos, except for the noise."""

    labels: NDArray[np.int64]
    """(n, len(LABELS)), -1 where there are fewer."""
    seen: NDArray[np.int64]
    """(n, UNLABELED), unlabeled classes that are seen; `heard` has those that are heard."""
    heard: NDArray[np.int64]
    style: NDArray[np.int64]
    """(n,)"""
    strength: NDArray[np.float64]
    """(2, n, len(LABELS)), strength of each label's visual and audio signature."""
    gain: NDArray[np.float64]
    """(2, n), contrast and volume."""


class Stream:
    """Random numbers for one purpose, independent of the other streams."""

    def __init__(self, seed: int, *purpose: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence([seed, *purpose]))

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Uniform in [0, 1), multiples of 2^-53."""
        raw = self._bits.random_raw(int(np.prod(shape)))
        return (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def noise(self, *shape: int) -> NDArray[np.float64]:
        """Approximately normal with mean 0 and variance 1: the scaled sum of four bytes."""
        count = int(np.prod(shape))
        four = self._bits.random_raw(-(-count // 2)).astype("<u8").view(np.uint8).reshape(-1, 4)[:count]
        # Column by column, because numpy's sum over so short an axis takes five times as long.
        total = four[:, 0].astype(np.int64) + four[:, 1] + four[:, 2] + four[:, 3] - 510
        return (total / FOUR_BYTES_SD).reshape(shape)


WORLD_VISUAL, WORLD_AUDIO, WORLD_TURNS, WORLD_MARKS, VIDEOS, NOISE = range(1, 7)
"""Purposes of the random streams."""


def make_world(classes: int, seed: int) -> World:
    """Generate the places, activities, classes, their signatures, and the styles."""
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
                # Equally frequent, so that only the sound distinguishes them.
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
    """Name each class by its place and activity, and by its sound where only that distinguishes it."""
    members = np.bincount(look, minlength=len(look))
    names = []
    for index, leader in enumerate(look.tolist()):
        topic, activity = leader % topics, ACTIVITIES[leader // topics]
        again = f" {topic // len(THEMES) + 1}" if topic >= len(THEMES) else ""
        sound = f" ({SOUNDS[(index - leader) // topics]})" if members[leader] > 1 else ""
        names.append(f"{THEMES[topic % len(THEMES)]}{again} {activity}{sound}")
    return names


def make_videos(world: World, options: SynthOptions, partition: str) -> SyntheticVideos:
    """Draw the random choices of `train` or `eval`."""
    number = PARTITIONS.index(partition)
    videos = (options.videos_train, options.videos_eval)[number]
    draw = Stream(options.seed, VIDEOS, number)
    topics = int(world.topic.max()) + 1

    # Cumulative weights, with the classes of a place side by side: a random number selects a class.
    order = np.argsort(world.topic, kind="stable")
    ladder = np.concatenate([[0.0], np.cumsum(world.weight[order])])
    bounds = ladder[np.searchsorted(world.topic[order], np.arange(topics + 1))]
    topic = np.minimum(np.searchsorted(bounds[1:], draw.uniform(videos) * ladder[-1], side="right"), topics - 1)

    def classes_of(columns: int, stray: float) -> NDArray[np.int64]:
        """Draw classes (videos, columns) from the video's place or, with probability `stray`, from all places."""
        low, high = bounds[topic, None], bounds[topic + 1, None]
        here = low + draw.uniform(videos, columns) * (high - low)
        anywhere = draw.uniform(videos, columns) * ladder[-1]
        height = np.where(draw.uniform(videos, columns) < stray, anywhere, here)
        return order[np.clip(np.searchsorted(ladder, height, side="right") - 1, 0, len(order) - 1)]

    # Draw more candidates than labels, because some repeat, and take the first distinct ones.
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
    """Return the features of the videos `rows` as bytes: visual (n, 1024) and audio (n, 128), uint8."""
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
    and `out`/made-up.json, which lists what a later run may overwrite.

    Returns its figures. The files are not compressed, because GZIP's output depends on its version.

    Raises:
        EdgeAfError: `out` has contents (without `overwrite`, or of other origin), or cannot be written.
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
    """Return patterns of the files in `out` that an earlier run wrote: those in its marker, with the recorded sizes."""
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
    """Serialize the videos."""
    grid = dequantize(np.arange(256)).astype("<f4")
    for video_id, row, rgb, sound in zip(ids, labels, grid[visual], grid[audio], strict=True):
        yield video_record(video_id, row[row >= 0].tolist(), {"mean_rgb": rgb, "mean_audio": sound})
