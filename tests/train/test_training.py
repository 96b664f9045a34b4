"""Training end to end on a small dataset, and the files it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

import edge_af
from edge_af import metrics
from edge_af.data.batches import batches, epoch_order, split
from edge_af.errors import EdgeAfError
from edge_af.files import lock_output
from edge_af.models.presets import AttendFusionConfig, FCLateFusionConfig
from edge_af.models.run import METRICS, RUN, load_network, load_run, save_run
from edge_af.train.compute import Compute
from edge_af.train.learning import mix, multi_label_cross_entropy
from edge_af.train.loop import TrainRequest, train
from edge_af.train.options import TrainOptions
from edge_af.train.teacher import open_teacher, ready

CONFIGS = [
    AttendFusionConfig(tokens=4, token_width=16, heads=2, dropout=0.1),
    FCLateFusionConfig(width=48, depth=2, dropout=0.1),
]
OPTIONS = TrainOptions(epochs=4, batch=32, lr=3e-3, held_out=0.1, threads=1)


def test_loss_is_the_papers_equation():
    logits, labels = torch.randn(5, 7), (torch.rand(5, 7) < 0.3).float()
    p = torch.sigmoid(logits)
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).sum() / 5
    torch.testing.assert_close(multi_label_cross_entropy(logits, labels), expected)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model)
def test_a_trained_network_beats_the_prior_on_other_videos(config, dataset, eval_dataset, tmp_path):
    run = train(TrainRequest(dataset, config, "test", tmp_path / "run", OPTIONS))
    scores = edge_af.load(tmp_path / "run").score(eval_dataset.stored)
    labels = eval_dataset.labels(slice(None))
    prior = np.tile(dataset.label_counts() / dataset.videos, (len(labels), 1))
    assert metrics.gap_at_20(scores, labels) > metrics.gap_at_20(prior, labels) + 0.1

    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    best = max(lines, key=lambda line: line["held_out"]["gap_at_20"])
    assert run.training["held_out"] == best["held_out"]
    assert load_run(tmp_path / "run") == dataclasses.replace(run, training=json.loads(json.dumps(run.training)))


def test_the_same_seed_gives_the_same_weights(dataset, tmp_path):
    options = dataclasses.replace(OPTIONS, epochs=1)
    first, second = (
        (
            tmp_path / name / train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / name, options)).weights
        ).read_bytes()
        for name in "ab"
    )
    assert first == second


@pytest.mark.slow
def test_a_student_learns_from_its_teacher_alone(dataset, eval_dataset, tmp_path):
    """A student trained only on the teacher's scores matches them better than one trained on labels."""
    options = dataclasses.replace(OPTIONS, teacher_weight=1.0)
    train(TrainRequest(dataset, CONFIGS[1], "test", tmp_path / "teacher", OPTIONS))
    run = train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "student", options, (tmp_path / "teacher",)))
    train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "alone", OPTIONS))
    scores = {
        name: edge_af.load(tmp_path / name).score(eval_dataset.stored) for name in ("teacher", "student", "alone")
    }
    distance = {name: np.abs(scores[name] - scores["teacher"]).mean() for name in ("student", "alone")}
    assert distance["student"] < 0.9 * distance["alone"]
    assert [teacher["model"] for teacher in run.training["teacher"]] == ["fc-late-fusion"]
    with pytest.raises(EdgeAfError, match="was made with teacher"):
        train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "student", options, resume=True))


def test_mixing_keeps_the_larger_share_of_each_video():
    torch.manual_seed(0)
    labels = torch.eye(64)
    (visual, audio), mixed = mix((labels * 2, labels * 3), labels, 0.4)
    torch.testing.assert_close(visual, 2 * mixed)
    torch.testing.assert_close(audio, 3 * mixed)
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(64))
    own = mixed.diagonal()
    assert (own >= 0.5).all() and (own < 0.999).any() and ((mixed > 0).sum(dim=1) <= 2).all()


def test_a_teacher_of_other_classes_is_refused(dataset, tmp_path):
    train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "teacher", dataclasses.replace(OPTIONS, epochs=1)))
    fewer = dataclasses.replace(dataset, index={**dataset.index, "classes": 40})
    with pytest.raises(EdgeAfError, match="the teacher has 30 classes, but the data has 40"):
        train(TrainRequest(fewer, CONFIGS[0], "test", tmp_path / "student", OPTIONS, (tmp_path / "teacher",)))
    assert not (tmp_path / "student" / RUN).exists()


def test_a_run_is_never_overwritten(dataset, tmp_path):
    train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, dataclasses.replace(OPTIONS, epochs=1)))
    with pytest.raises(EdgeAfError, match="already holds a run"):
        train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, OPTIONS))


@pytest.mark.parametrize("name", ["weights-e1.safetensors", "weights-best.safetensors", "notes.txt", "deep/data"])
def test_a_folder_of_something_else_is_left_alone(dataset, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    for resume in (False, True):
        with pytest.raises(EdgeAfError, match=f"is not a run and holds '{name}'"):
            train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, OPTIONS, resume=resume))
    assert (tmp_path / name).read_text() == "precious"


def test_a_run_removes_no_weights_but_its_own(dataset, tmp_path):
    fewer = dataclasses.replace(OPTIONS, epochs=2)
    train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, fewer))
    kept = load_run(tmp_path)
    for name in ("weights-e7.safetensors", "weights-mine.safetensors"):
        (tmp_path / name).write_text("precious")
    save_run(tmp_path, dataclasses.replace(kept, weights="weights-e9.safetensors"), load_network(tmp_path)[1])
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {"weights-e7.safetensors", "weights-e9.safetensors", "weights-mine.safetensors"}


def test_two_trainings_do_not_share_a_folder(dataset, tmp_path):
    with lock_output(tmp_path), pytest.raises(EdgeAfError, match="another edge-af process is writing here"):
        train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, OPTIONS))
    assert list(tmp_path.iterdir()) == []
    train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, dataclasses.replace(OPTIONS, epochs=1)))
    assert not (tmp_path / ".lock").exists()


def test_divergence_is_an_error_and_no_run(dataset, tmp_path):
    with pytest.raises(EdgeAfError, match=r"loss became (nan|inf) in epoch .*Lower --lr"):
        train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, dataclasses.replace(OPTIONS, lr=1e30, clip=1e30)))
    assert not (tmp_path / RUN).exists()


def test_a_feature_that_is_no_number_is_named(dataset, tmp_path):
    visual = np.array(dataset.visual)
    visual[7, 3] = np.nan
    with pytest.raises(EdgeAfError, match="array 'visual', row 7: NaN or infinite"):
        train(TrainRequest(dataclasses.replace(dataset, visual=visual), CONFIGS[0], "test", tmp_path, OPTIONS))
    assert not (tmp_path / RUN).exists()


def test_damaged_runs_are_named(dataset, tmp_path):
    with pytest.raises(EdgeAfError, match="not a run"):
        load_run(tmp_path)
    weights = (
        tmp_path
        / train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, dataclasses.replace(OPTIONS, epochs=1))).weights
    )
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(EdgeAfError, match="does not hold this network's weights"):
        load_network(tmp_path)
    weights.unlink()
    with pytest.raises(EdgeAfError, match="missing"):
        load_network(tmp_path)
    (tmp_path / RUN).write_text('{"schema_version": 1, "model": "attend-fusion"')
    with pytest.raises(EdgeAfError, match="cannot read this run"):
        load_run(tmp_path)


def test_the_split_is_disjoint_complete_and_repeatable():
    rows, held_out = split(1000, 0.05, seed=3)
    assert len(held_out) == 50
    assert sorted([*rows, *held_out]) == list(range(1000))
    assert np.array_equal(held_out, split(1000, 0.05, seed=3)[1])
    assert not np.array_equal(held_out, split(1000, 0.05, seed=4)[1])


def test_every_epoch_sees_every_video_once_in_another_order():
    rows = np.arange(0, 40_000, 2)
    first, second = epoch_order(rows, 0, 1), epoch_order(rows, 0, 2)
    assert np.array_equal(np.sort(first), rows)
    assert np.array_equal(np.sort(second), rows)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, epoch_order(rows, 0, 1))
    # Shuffling must remove the correlation between a row and its position.
    assert abs(np.corrcoef(first, np.arange(len(first)))[0, 1]) < 0.5


def test_batches_hold_what_the_dataset_holds(dataset):
    order = epoch_order(np.arange(dataset.videos), 0, 1)
    items = list(batches(dataset, order, 64))
    assert len(items) == dataset.videos // 64
    visual, audio = dataset.features(order[64:128])
    assert np.array_equal(items[1].features.visual, visual)
    assert np.array_equal(items[1].features.audio, audio)
    assert np.array_equal(items[1].labels, dataset.labels(order[64:128]))


def test_an_error_while_reading_ahead_reaches_the_caller(dataset):
    with pytest.raises(IndexError):
        list(batches(dataset, np.array([0, 1, dataset.videos + 5, 2]), 4))


def test_held_out_videos_that_cannot_be_scored_are_an_error(dataset, tmp_path):
    _, held_out = split(dataset.videos, OPTIONS.held_out, OPTIONS.seed)
    broken = np.array(dataset.visual)
    broken[held_out[0]] = np.nan
    with pytest.raises(EdgeAfError, match="1 of 60 videos have a NaN score"):
        train(TrainRequest(dataclasses.replace(dataset, visual=broken), CONFIGS[0], "test", tmp_path, OPTIONS))


def test_too_little_data_is_an_error(dataset, tmp_path):
    with pytest.raises(EdgeAfError, match="leaves 1 of 600 videos"):
        train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path, dataclasses.replace(OPTIONS, held_out=0.9999)))
    bare = dataclasses.replace(dataset, label_values=dataset.label_values[:0], label_offsets=dataset.label_offsets * 0)
    with pytest.raises(EdgeAfError, match="no video has a label"):
        train(TrainRequest(bare, CONFIGS[0], "test", tmp_path, OPTIONS))


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch", 1), ("lr", float("nan")), ("warmup", 1.0), ("held_out", 0.0), ("precision", "int8")],
)
def test_impossible_options_name_their_flag(field, value):
    with pytest.raises(EdgeAfError, match=f"--{field.replace('_', '-')}"):
        TrainOptions(**{field: value})


def test_patience_ends_a_run_that_brings_nothing_more(dataset, tmp_path, capsys):
    """With a tiny learning rate, epochs bring no gain, and two such epochs in a row end the run."""
    options = dataclasses.replace(OPTIONS, epochs=30, lr=1e-9, patience=2)
    run = train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "run", options))
    lines = (tmp_path / "run" / METRICS).read_text().splitlines()
    assert len(lines) < 30
    gaps = [json.loads(line)["held_out"]["gap_at_20"] for line in lines]
    assert gaps.index(max(gaps)) == len(gaps) - 3 == run.training["epoch"] - 1
    assert "stopped early" in capsys.readouterr().err
    # Resuming a finished run does nothing.
    assert train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "run", options, resume=True)) == load_run(
        tmp_path / "run"
    )


def test_teachers_score_the_same_kept_or_asked_each_time(dataset, tmp_path):
    networks = []
    for number, config in enumerate(CONFIGS):
        folder = tmp_path / f"teacher{number}"
        train(TrainRequest(dataset, config, "test", folder, dataclasses.replace(OPTIONS, epochs=1)))
        networks.append(open_teacher(folder, dataset)[1])
    compute = Compute("cpu", "fp32", 1e9)
    rows = np.array([7, 3, 500])
    features = [torch.from_numpy(array) for array in dataset.features(rows)]
    kept, asked = (ready(networks, dataset, compute, keep=keep) for keep in (True, False))
    assert type(kept) is not type(asked)
    torch.testing.assert_close(kept.scores(rows, features), asked.scores(rows, features), atol=1e-3, rtol=1e-3)
    with torch.inference_mode():
        mean = sum(torch.sigmoid(network(*features)) for network in networks) / len(networks)
    torch.testing.assert_close(asked.scores(rows, features), mean)


def test_epochs_are_written_for_tensorboard(dataset, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(TrainRequest(dataset, CONFIGS[1], "test", tmp_path, dataclasses.replace(OPTIONS, epochs=2)))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    found = [(event.step, event.value) for event in events.Scalars("held_out/gap_at_20")]
    assert found == [(line["epoch"], pytest.approx(line["held_out"]["gap_at_20"])) for line in lines]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_told_in_plain_words(dataset, tmp_path, monkeypatch):
    """safetensors reports it as text, not as an `OSError`."""
    import safetensors.torch

    def full(tensors, path, metadata=None):
        try:
            Path("/dev/full").write_bytes(b"x")
        except OSError as error:
            raise SafetensorError(
                f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            ) from None

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(EdgeAfError, match="no space left"):
        train(TrainRequest(dataset, CONFIGS[0], "test", tmp_path / "run", OPTIONS))
    assert not list((tmp_path / "run").glob("*.safetensors*"))


def test_the_better_of_two_epochs_with_the_same_gap_has_the_lower_loss():
    from edge_af.train.records import rank

    early, late = ({"held_out": {"gap_at_20": 1.0}, "held_out_loss": loss} for loss in (0.9, 0.1))
    worse = {"held_out": {"gap_at_20": 0.9}, "held_out_loss": 0.01}
    assert rank(late) > rank(early) > rank(worse)
