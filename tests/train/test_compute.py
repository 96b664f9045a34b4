"""Training's choice of device and precision, and its speed figures."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from edge_af.data import Features
from edge_af.data.batches import Batch, batches
from edge_af.errors import EdgeAfError
from edge_af.models.presets import FCLateFusionConfig
from edge_af.train import compute as module
from edge_af.train.compute import Compute, Stopwatch, choose_compute, matmul_flops
from edge_af.train.distributed import ALONE
from edge_af.train.loop import TrainRequest


def test_bf16_is_chosen_only_where_it_is_faster(monkeypatch):
    monkeypatch.setattr(module, "_has_bf16", lambda: True)
    for speed, expected in ((0.6, "fp32"), (1.1, "fp32"), (2.0, "bf16")):
        rates = {torch.float32: 1e11, torch.bfloat16: speed * 1e11}
        monkeypatch.setattr(module, "matmul_flops", lambda device, dtype, rates=rates: rates[dtype])
        found = choose_compute("cpu", "auto", ALONE)
        assert (found.dtype, found.peak_flops) == (expected, rates[module.DTYPES[expected]])


def test_a_run_that_goes_on_keeps_its_numbers(monkeypatch):
    monkeypatch.setattr(module, "matmul_flops", lambda device, dtype: 1e11)
    assert choose_compute("cpu", "auto", ALONE, before="bf16").dtype == "bf16"
    assert choose_compute("cpu", "fp32", ALONE, before="bf16").dtype == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error_and_auto_does_without():
    with pytest.raises(EdgeAfError, match=r"--device cuda: .* finds no GPU"):
        choose_compute("cuda", "auto", ALONE)
    assert choose_compute("auto", "fp32", ALONE).device == "cpu"


def test_the_peak_is_no_less_than_what_a_product_reaches():
    """The bound is loose, because a busy machine can slow down either measurement."""
    peak = matmul_flops("cpu", torch.float32)
    side, best = 512, float("inf")
    a = torch.ones(side, side)
    for _ in range(20):
        started = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - started)
    assert peak > 2 * side**3 / best / 10


def test_tensors_are_the_batchs_arrays(dataset):
    rows = np.array([5, 3, 8])
    (batch,) = batches(dataset, rows, 3)
    inputs = Compute("cpu", "fp32", 1e9).inputs(batch.features)
    assert batch.rows.tolist() == [5, 3, 8]
    np.testing.assert_array_equal(batch.labels, dataset.labels(rows))
    np.testing.assert_array_equal(torch.cat(inputs, 1).numpy(), np.concatenate(dataset.features(rows), 1))


def test_waiting_is_told_from_working():
    def slow():
        for _ in range(3):
            time.sleep(0.03)
            rows = np.zeros((4, 1), np.float32)
            yield Batch(rows, Features(rows, rows), rows)

    watch = Stopwatch(time.perf_counter())
    for batch in watch.timed(slow()):
        time.sleep(0.01)
        watch.videos += batch.features.videos
    speed = watch.speed(10, Compute("cpu", "fp32", 1e6), ALONE)
    assert 0.5 < speed["data_wait_share"] < 0.95
    assert speed["peak_share"] == pytest.approx(speed["videos_per_s"] * 10 / 1e6)
    assert Stopwatch(time.perf_counter()).speed(10, Compute("cpu", "fp32", 1e6), ALONE) == {}


@pytest.mark.slow
def test_a_compiled_network_trains_the_same(dataset, tmp_path):
    """The first loss agrees up to rounding, and the weights have the network's own names."""
    pytest.importorskip("torch._inductor")
    import json

    from edge_af.models.run import METRICS, load_network
    from edge_af.train.loop import train
    from edge_af.train.options import TrainOptions

    config = FCLateFusionConfig(width=16, depth=1, dropout=0.0)
    losses = []
    for name, compiled in (("eager", False), ("compiled", True)):
        options = TrainOptions(epochs=1, batch=64, threads=1, precision="fp32", compile=compiled)
        try:
            train(TrainRequest(dataset, config, "test", tmp_path / name, options))
        except Exception as error:
            if compiled and "compiler" in str(error).lower():
                pytest.skip(f"torch.compile needs a C++ compiler: {error}")
            raise
        losses.append(json.loads((tmp_path / name / METRICS).read_text())["loss"])
        load_network(tmp_path / name)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
