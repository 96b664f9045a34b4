"""Histograms that do not depend on order, and the file of ranges."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edge_af.data.dataset import Dataset, open_dataset
from edge_af.errors import EdgeAfError
from edge_af.export.graph import Graph
from edge_af.export.ranges import BINS, Histogram, Ranges, add, choose_videos, find_ranges, read_ranges, write_ranges


def histogram_of(parts: list[np.ndarray]) -> Histogram:
    found = None
    for part in parts:
        found = add(found, part)
    assert found is not None
    return found


def assert_equal(one: Histogram, two: Histogram) -> None:
    for field in dataclasses.fields(Histogram):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name), err_msg=field.name)


@pytest.mark.parametrize("seed", range(12))
def test_neither_order_nor_batches_matter(seed: int) -> None:
    random = np.random.default_rng(seed)
    # Values over many powers of two; some seeds with zeros, some with a single sign.
    values = random.normal(0, 1, 3000) * np.exp2(random.integers(-20, 6, 3000))
    if seed % 3 == 0:
        values = np.maximum(values, 0)
    elif seed % 3 == 1:
        values += 50
    values = values.astype(np.float32)
    whole = histogram_of([values])
    shuffled = random.permutation(values)
    cuts = np.sort(random.choice(np.arange(1, 3000), 40, replace=False))
    assert_equal(histogram_of(np.split(shuffled, cuts)), whole)
    assert_equal(histogram_of(np.split(np.sort(values), cuts)), whole)


def test_counts_are_right_and_bins_well_used() -> None:
    values = np.random.default_rng(0).normal(3, 2, 100_000).astype(np.float32)
    found = histogram_of(np.array_split(values, 7))
    assert found.counts.sum() == len(values)
    assert BINS / 2 <= len(found.counts) <= BINS
    edges = np.ldexp(np.arange(found.first, found.first + len(found.counts) + 1, dtype=np.float64), found.exponent)
    expected = [np.count_nonzero((values >= low) & (values < high)) for low, high in itertools.pairwise(edges)]
    np.testing.assert_array_equal(found.counts, expected)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999, 0.99999, 1.0])
def test_quantiles_are_those_of_the_values_within_a_bin(share: float) -> None:
    values = np.random.default_rng(1).normal(0, 1, 50_000).astype(np.float32)
    found = histogram_of([values])
    # The tolerance is one value, as the tails are thin, plus one bin.
    low, high = np.quantile(values, [max(0, share - 2e-5), min(1, share + 2e-5)])
    width = 2.0**found.exponent
    assert low - width <= found.quantile(share) <= high + width


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e-30, 1e30])
def test_a_tensor_of_one_value(value: float) -> None:
    found = histogram_of([np.full((4, 3), value, np.float32)] * 2)
    assert found.minimum == found.maximum == np.float32(value)
    assert found.counts.sum() == 24
    assert found.quantile(0.5) == np.float32(value)


def test_ranges_do_not_depend_on_the_order_of_rows(graph: Graph, dataset: Dataset) -> None:
    rows = choose_videos(np.arange(dataset.videos), 150, seed=3)
    one = find_ranges(graph, dataset, rows, seed=3)
    two = find_ranges(graph, dataset, np.random.default_rng(0).permutation(rows), seed=3)
    assert one.sha256 == two.sha256 == dataset.sha256(rows)
    assert list(one.tensors) == graph.activations()
    for name, histogram in one.tensors.items():
        assert_equal(histogram, two.tensors[name])


def test_ranges_hold_what_the_inputs_hold(ranges: Ranges, dataset: Dataset) -> None:
    visual, _ = dataset.features(slice(0, 100))
    found = ranges.tensors["visual"]
    assert (found.minimum, found.maximum) == (visual.min(), visual.max())
    assert found.counts.sum() == visual.size


def test_videos_are_drawn_by_the_seed() -> None:
    rows = np.arange(1000, 2000)
    chosen = choose_videos(rows, 100, seed=1)
    assert len(np.unique(chosen)) == 100
    assert np.isin(chosen, rows).all()
    np.testing.assert_array_equal(chosen, choose_videos(rows, 100, seed=1))
    assert not np.array_equal(chosen, choose_videos(rows, 100, seed=2))
    np.testing.assert_array_equal(choose_videos(rows, 5000, seed=1), rows)
    with pytest.raises(EdgeAfError, match="at least one video"):
        choose_videos(rows[:0], 10, seed=0)


def test_a_file_of_ranges_comes_back_as_it_was(ranges: Ranges, tmp_path: Path) -> None:
    write_ranges(tmp_path / "ranges.json", ranges)
    back = read_ranges(tmp_path / "ranges.json")
    assert dataclasses.replace(back, tensors={}) == dataclasses.replace(ranges, tensors={})
    for name, histogram in ranges.tensors.items():
        assert_equal(back.tensors[name], histogram)


@pytest.mark.parametrize("damage", ["cut", "version", "counts", "list"])
def test_a_damaged_file_of_ranges_is_refused(ranges: Ranges, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "ranges.json"
    write_ranges(path, ranges)
    value = json.loads(path.read_text())
    if damage == "version":
        value["schema_version"] = 99
    elif damage == "counts":
        value["tensors"]["visual"]["counts"] = "1 2 three"
    path.write_text("[]" if damage == "list" else json.dumps(value)[: 500 if damage == "cut" else None])
    with pytest.raises(EdgeAfError, match=str(path)):
        read_ranges(path)


def test_features_that_are_not_finite_are_refused(graph: Graph, dataset: Dataset, tmp_path: Path) -> None:
    shutil.copytree(dataset.folder, tmp_path / "bad")
    visual = np.load(tmp_path / "bad" / "visual.npy")
    visual[70, 3] = np.nan
    np.save(tmp_path / "bad" / "visual.npy", visual)
    with pytest.raises(EdgeAfError, match=r"'visual' is not finite for one of the videos 64 to 99"):
        find_ranges(graph, open_dataset(tmp_path / "bad"), np.arange(100), seed=0)
