"""The synthetic dataset is reproducible, resembles the real data, and can be learned."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_af.data.dataset import Dataset, open_dataset
from edge_af.data.prepare import PrepareOptions, prepare
from edge_af.data.synth import MARKER, Stream, SynthOptions, make_videos, make_world, synthesize
from edge_af.data.vocabulary import read_vocabulary
from edge_af.errors import EdgeAfError

SMALL = SynthOptions(videos_train=600, videos_eval=100, classes=40, seed=3)


def _hash(folder: Path) -> str:
    """Hash all files except the marker, which records how they were made."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "small"
    synthesize(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """Both parts of the default dataset, prepared."""
    folder = tmp_path_factory.mktemp("synth")
    synthesize(folder / "made")
    for part in ("train", "eval"):
        prepare([str(folder / "made" / part)], folder / part, PrepareOptions(dtype="float32"))
    return open_dataset(folder / "train"), open_dataset(folder / "eval")


def test_the_bytes_are_the_same_each_time(small: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", SMALL)
    assert _hash(tmp_path / "again") == _hash(small)


def test_the_bytes_are_the_same_everywhere(small: Path) -> None:
    # After an intended change of the generator, update the hash. Earlier results are then no longer comparable.
    assert _hash(small) == "52643284daaabee76ed1c8dfe6a01cc4854fe20a9692b44b2ceafd1b7d8d8104"


def test_random_numbers_are_the_generators_raw_output() -> None:
    raw = np.random.PCG64(np.random.SeedSequence([7, 1])).random_raw(4)
    assert np.array_equal(Stream(7, 1).uniform(4), (raw >> np.uint64(11)) / 2.0**53)
    noise = Stream(7, 2).noise(1000, 100)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_another_seed_is_another_world(small: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", SynthOptions(videos_train=600, videos_eval=100, classes=40, seed=4))
    assert _hash(tmp_path / "other") != _hash(small)


def test_the_number_of_evaluation_videos_does_not_change_the_training_videos(small: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "other", SynthOptions(videos_train=600, videos_eval=7, classes=40, seed=3))
    assert _hash(tmp_path / "other" / "train") == _hash(small / "train")
    assert _hash(tmp_path / "other" / "eval") != _hash(small / "eval")


def test_an_output_folder_in_use_is_refused(small: Path, tmp_path: Path) -> None:
    before = _hash(small)
    with pytest.raises(EdgeAfError, match="--overwrite"):
        synthesize(small, SMALL)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("mine")
    with pytest.raises(EdgeAfError, match=r"mine\.txt"):
        synthesize(tmp_path / "letters", SMALL, overwrite=True)
    synthesize(small, SMALL, overwrite=True)
    assert _hash(small) == before


def test_overwrite_spares_what_only_looks_like_a_made_up_data_set(tmp_path: Path) -> None:
    tiny = SynthOptions(videos_train=3, videos_eval=2, classes=10)
    # The real data's layout, with names that this command also writes (train00 is a shard of the 2017 release).
    real = tmp_path / "yt8m"
    for name in ("train/train00.tfrecord", "eval/eval00.tfrecord", "vocabulary.csv"):
        (real / name).parent.mkdir(parents=True, exist_ok=True)
        (real / name).write_bytes(b"took days to download")
    before = _hash(real)
    with pytest.raises(EdgeAfError, match=r"eval/eval00\.tfrecord"):
        synthesize(real, tiny, overwrite=True)
    assert _hash(real) == before

    made = tmp_path / "made"
    synthesize(made, tiny)
    # First add a real file, then replace one of ours with it.
    other = made / "train" / "train0093.tfrecord"
    other.write_bytes(b"real")
    with pytest.raises(EdgeAfError, match=r"train/train0093\.tfrecord"):
        synthesize(made, tiny, overwrite=True)
    other.rename(made / "train" / "train00.tfrecord")
    with pytest.raises(EdgeAfError, match=r"train/train00\.tfrecord"):
        synthesize(made, tiny, overwrite=True)
    assert (made / "train" / "train00.tfrecord").read_bytes() == b"real"
    for odd in ("[]", '{"files": 3}', "{"):
        (made / MARKER).write_text(odd)
        with pytest.raises(EdgeAfError, match=r"which --overwrite would delete|cannot read"):
            synthesize(made, tiny, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("classes", [10, 37, 400, 4716])
def test_names_are_unique_and_groups_show_in_them(classes: int) -> None:
    world = make_world(classes, 0)
    assert len(set(world.names)) == classes
    assert not any("," in name for name in world.names)
    groups = [np.flatnonzero(world.look == leader) for leader in np.unique(world.look)]
    alike = [group for group in groups if len(group) > 1]
    assert len(alike) >= classes // 24
    for group in alike:
        assert len({world.names[member].split(" (")[0] for member in group}) == 1
        assert all("(" in world.names[member] for member in group)
        # Only the sound tells them apart, not the looks, the topic or the frequency.
        assert np.ptp(world.visual[group], axis=0).max() == 0
        assert len({world.weight[member] for member in group}) == 1
        assert len({world.topic[member] for member in group}) == 1
        first, second = world.audio[group[0]], world.audio[group[1]]
        assert np.abs(first - second).mean() > 0.5


@pytest.mark.slow
def test_labels_are_long_tailed_and_go_together(default: tuple[Dataset, Dataset]) -> None:
    train, evaluation = default
    assert (train.videos, evaluation.videos, train.classes) == (12000, 2000, 400)
    assert train.class_names == read_vocabulary(train.folder.parent / "made" / "vocabulary.csv").names
    assert 2.8 < len(train.label_values) / train.videos < 3.2
    assert np.diff(train.label_offsets).min() >= 1
    counts = np.sort(train.label_counts())[::-1]
    assert counts[-1] > 0
    assert counts[0] > 30 * np.median(counts[200:])
    assert counts[:40].sum() > 0.35 * counts.sum()
    # Two labels of a video share a topic far more often than two random labels.
    topic = make_world(400, 0).topic
    videos = make_videos(make_world(400, 0), SynthOptions(), "train").labels
    two = videos[videos[:, 1] >= 0, :2]
    shuffled = np.random.default_rng(0).permutation(two[:, 1])
    together = (topic[two[:, 0]] == topic[two[:, 1]]).mean()
    assert together > 5 * (topic[two[:, 0]] == topic[shuffled]).mean()


@pytest.mark.slow
def test_features_lie_on_the_grid_with_the_spread_of_the_real_ones(default: tuple[Dataset, Dataset]) -> None:
    train, _ = default
    for features, spread in ((train.visual, 0.46), (train.audio, 0.69)):
        codes = (features[:4000].astype(np.float64) + 2 - 4 / 512) * 255 / 4
        assert np.abs(codes - codes.round()).max() < 1e-4
        assert codes.round().min() >= 0
        assert codes.round().max() <= 255
        assert abs(features[:4000].std() - spread) < 0.03
        # Hardly any are at the ends of the grid, where values are clipped.
        assert np.isin(codes.round(), (0, 255)).mean() < 0.02
    both = np.concatenate([train.ids, default[1].ids])
    assert len(np.unique(both)) == 14000


def _linear_gap(train: Dataset, evaluation: Dataset, columns: slice) -> tuple[float, NDArray[np.float32]]:
    """Return GAP@20 and scores on `evaluation` of logistic regression on these `columns` of the 1152 features."""
    import torch

    from edge_af.metrics import gap_at_20

    torch.manual_seed(0)
    x, y = np.concatenate(train.features(slice(None)), axis=1)[:, columns], train.labels(slice(None))
    mean, spread = x.mean(axis=0), x.std(axis=0)
    inputs, targets = torch.from_numpy((x - mean) / spread), torch.from_numpy(y).float()
    model = torch.nn.Linear(inputs.shape[1], train.classes)
    torch.nn.init.zeros_(model.weight)
    prior = targets.mean(0)
    model.bias.data = torch.log(prior / (1 - prior))
    epochs, batch, rate = 6, 256, 3e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (len(x) // batch))
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // batch * batch].split(batch):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            (loss * train.classes).backward()
            optimizer.step()
            schedule.step()
    x = np.concatenate(evaluation.features(slice(None)), axis=1)[:, columns]
    with torch.no_grad():
        scores = model(torch.from_numpy((x - mean) / spread)).sigmoid().numpy()
    return gap_at_20(scores, evaluation.labels(slice(None))), scores


@pytest.mark.slow
def test_a_linear_model_learns_some_of_it_and_needs_both_modalities(default: tuple[Dataset, Dataset]) -> None:
    both, scores = _linear_gap(*default, slice(None))
    seen, seen_scores = _linear_gap(*default, slice(0, 1024))
    heard, _ = _linear_gap(*default, slice(1024, 1152))
    assert 0.6 < both < 0.78
    assert seen < both - 0.03
    assert heard < both - 0.03

    # Within a group of three that looks the same, vision alone can only guess; with sound it is right more often.
    look = make_world(400, 0).look
    hot = default[1].labels(slice(None))
    right, right_seen, asked = 0, 0, 0
    for leader in np.flatnonzero(np.bincount(look, minlength=400) == 3):
        group = np.flatnonzero(look == leader)
        videos = np.flatnonzero(hot[:, group].sum(axis=1) == 1)
        asked += len(videos)
        truth = hot[videos][:, group].argmax(axis=1)
        right += int((scores[videos][:, group].argmax(axis=1) == truth).sum())
        right_seen += int((seen_scores[videos][:, group].argmax(axis=1) == truth).sum())
    assert asked > 500
    assert right_seen / asked < 0.42
    assert right / asked > 0.55
