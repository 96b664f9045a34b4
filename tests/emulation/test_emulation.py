"""Emulated boards. Tests marked `emulated` run real aarch64 wheels in QEMU; the others need no QEMU."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from benches import run_bench
from tiny_export import CONFIGS, export_tiny

from edge_af.bench.subject import subjects_of
from edge_af.compare.instructions import check_instructions
from edge_af.compare.limits import read_budget_file
from edge_af.data.dataset import Dataset
from edge_af.emulation import counts, setup
from edge_af.emulation import latency_model as model
from edge_af.emulation.backend import EmulatedBackend
from edge_af.emulation.boards import BOARDS, parse_emulated
from edge_af.emulation.setup import System
from edge_af.errors import EdgeAfError
from edge_af.files import package_data
from edge_af.metrics import evaluate
from edge_af.records.comparison import FAILED, PASSED, UNKNOWN
from edge_af.records.results import DOES_NOT_FIT, OK, Instructions, Method, read_results
from edge_af.report.page import page
from edge_af.report.text import markdown_table, table
from edge_af.runtime import load
from edge_af.runtime.accuracy import score_dataset
from edge_af.runtime.multiply_adds import multiply_adds
from edge_af.targets.fleet import read_fleet

COUNTS = Instructions(
    instructions=12_634_013, dot_product=4_571_584, dot_product_macs=73_145_344, integer_multiply=12_678,
    integer_multiply_macs=50_712, float_multiply_add=77_912, float_multiply_add_macs=311_648, vector=5_000_000,
    loads=5_359_316, stores=47_470, loaded_bytes=80_000_000, stored_bytes=800_000, memory_read_bytes=66_382_976,
    memory_written_bytes=100_000,
)  # fmt: skip


def test_a_board_is_named_with_or_without_its_memory():
    assert [parse_emulated(f"emulated:{key}").cpu for key in BOARDS] == [
        "cortex-a76", "cortex-a72", "cortex-a53", "cortex-a53",
    ]  # fmt: skip
    assert parse_emulated("emulated:zero2w").memory_bytes == 512 * 2**20
    assert parse_emulated("emulated:pi5:512MiB").memory_bytes == 512 * 2**20
    assert parse_emulated("emulated:pi4:2gb").memory_bytes == 2 * 10**9


@pytest.mark.parametrize(
    "text", ["emulated:", "emulated:pi6", "emulated:pi5:", "pi5", "emulated:pi5:0GiB", "emulated:pi5:-1GiB"]
)
def test_what_is_no_board_is_refused(text: str):
    if text == "emulated:pi5:":  # Without a size, the memory is the board's own.
        assert parse_emulated(text) == parse_emulated("emulated:pi5")
        return
    with pytest.raises(EdgeAfError, match="emulated:pi5"):
        parse_emulated(text)
    with pytest.raises(EdgeAfError, match="take more than 64MiB"):
        parse_emulated("emulated:pi4:64MiB")


def test_a_fleet_may_hold_boards_that_are_not_there(tmp_path: Path):
    fleet = tmp_path / "fleet.yaml"
    fleet.write_text("targets: ['emulated:pi5', 'emulated:pi5:512MiB', 'emulated:pi4:8GiB']\n")
    members = read_fleet(fleet)
    assert [member.label for member in members] == ["emulated:pi5", "emulated:pi5:512MiB", "emulated:pi4"]
    assert members[1].out(Path("r.json")).name == "r-emulated-pi5-512MiB.json"


def test_the_processor_tells_what_it_can():
    pi5, pi4 = parse_emulated("emulated:pi5").cpuinfo(), parse_emulated("emulated:pi4").cpuinfo()
    assert "asimddp" in pi5 and "0xd0b" in pi5 and pi5.count("processor\t:") == 4
    assert "asimddp" not in pi4 and "0xd08" in pi4 and "Raspberry Pi 4" in pi4


def test_counts_are_the_differences_between_marks():
    names = [field.name for field in dataclasses.fields(Instructions)]
    lines = [
        {"mark": mark, **{name: mark * mark * 10 + index for index, name in enumerate(names)}} for mark in range(4)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    assert counts.parse_counts(text) == [dict.fromkeys(names, 30), dict.fromkeys(names, 50)]
    for broken in ("", text.replace('"mark": 3', '"mark": 9'), "[]\n", text[:-30], text.replace("stores", "shops")):
        with pytest.raises(EdgeAfError, match="plugin did not write"):
            counts.parse_counts(broken)


def test_a_latency_is_modeled_between_its_bounds():
    profile = parse_emulated("emulated:pi5").profile
    found = model.modeled_latency(COUNTS, profile)
    assert found is not None and found.low < found.value < found.high
    # No inference is faster than reading the weights at the highest published bandwidth.
    assert found.low >= COUNTS.memory_read_bytes / 14.9e6 * 0.999
    slower = model.modeled_latency(COUNTS, parse_emulated("emulated:pi3").profile)
    assert slower is not None and slower.value > 3 * found.value
    core = model.CORES["Cortex-A76"]
    assert model.bound_cycles(COUNTS, core) == max(12_634_013 / 4, 5_359_316 / 2, 4_571_584 / 2, 5_000_000 / 2)


def test_the_model_is_fitted_on_half_and_tried_on_the_other():
    trials = model.trials()
    fitted, others = ([one for one in trials if one.fitted is kind] for kind in (True, False))
    assert len(fitted) >= 20 and len(others) >= 20
    assert not {one.network for one in fitted} & {one.network for one in others}
    for (board, kind), fit in model.fits().items():
        mine = [one for one in fitted if (one.board, one.kind) == (board, kind)]
        assert len(mine) == fit.figures >= 1 and 0.1 < fit.efficiency < 2 and 1 < fit.spread < 3
    # The error stated in docs/explanation/emulation.md.
    errors = sorted(abs(one.error) for one in others)
    assert errors[len(errors) // 2] < 0.4 and sum(one.in_band for one in others) >= 0.8 * len(others)
    assert all(math.isfinite(one.error) for one in trials)


def test_missing_tools_are_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(EdgeAfError, match="edge-af targets setup emulated"):
        setup.find_system()
    monkeypatch.setattr(setup.shutil, "which", lambda tool: None if tool == "setarch" else f"/usr/bin/{tool}")
    with pytest.raises(EdgeAfError, match="apt install util-linux"):
        setup.setup_emulated()
    monkeypatch.setattr(setup.shutil, "which", lambda tool: None if tool == "apt-get" else f"/usr/bin/{tool}")
    with pytest.raises(EdgeAfError, match="no apt-get"):
        setup.setup_emulated()
    monkeypatch.setattr(counts.shutil, "which", lambda tool: None)
    with pytest.raises(EdgeAfError, match="apt install gcc"):
        counts.build_plugin()
    assert not list((tmp_path / "edge-af").rglob("system.json"))


def test_a_setup_that_fails_leaves_nothing_that_looks_finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    leftover = tmp_path / "edge-af/emulated/systems/.abc.stage"
    leftover.mkdir(parents=True)
    with pytest.raises(EdgeAfError):
        setup.setup_emulated(mirror="file:///nonexistent")
    assert [path.name for path in leftover.parent.iterdir()] == []


def test_the_guest_finds_its_own_packages_before_those_beside_edge_af(tmp_path: Path):
    """In a plain install, packages of this machine's processor lie beside edge_af."""
    paths = System(tmp_path, "1", "3.11", {}).python_path.split(":")
    assert paths == [str(tmp_path / "packages"), str(package_data().parent)]


def test_a_budget_names_boards_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    budget = tmp_path / "budget.yaml"
    budget.write_text("limits: {'*': {instructions: {pi5: {dot_product: 5_000, loads: 4000000}}}}\n")
    limits = read_budget_file(budget).limits["*"]["instructions"]
    assert limits == {"pi5": {"dot_product": 5000, "loads": 4e6}}
    for wrong, message in (("pi6: {loads: 1}", "Did you mean 'pi"), ("pi5: {dot: 1}", "unknown key 'dot'")):
        budget.write_text(f"limits: {{'*': {{instructions: {{{wrong}}}}}}}\n")
        with pytest.raises(EdgeAfError, match=message):
            read_budget_file(budget)
    monkeypatch.setattr(counts, "instruction_counts", lambda *_, **__: COUNTS)
    few, many = check_instructions(tmp_path, "*", limits, 60)
    assert few.status == PASSED and many.status == FAILED and "above 4,000,000" in many.verdict
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (unknown,) = check_instructions(tmp_path, "*", limits, 60)
    assert unknown.status == UNKNOWN and "targets setup emulated" in unknown.verdict


@pytest.fixture(scope="module")
def system() -> setup.System:
    try:
        return setup.find_system()
    except EdgeAfError as error:
        pytest.skip(" ".join(str(error).splitlines()))


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> Path:
    """A network of 512-wide layers: small, but large enough to use the kernels of large networks."""
    config = dataclasses.replace(CONFIGS["fc-late-fusion"], width=512)
    return export_tiny("fc-late-fusion", tmp_path_factory.mktemp("emulated") / "fc-late-fusion", dataset, config=config)


@pytest.mark.emulated
def test_scores_and_counts_are_those_of_the_board(system, exports: Path, eval_dataset: Dataset, tmp_path: Path):
    found = {}
    subjects = subjects_of([exports / "fc-late-fusion-int8.tflite", exports / "fc-late-fusion-fp32.onnx"], ())
    for key in ("pi4", "pi5"):
        backend = EmulatedBackend(parse_emulated(f"emulated:{key}"))
        out = tmp_path / f"{key}.json"
        results = run_bench(subjects, eval_dataset, method=Method(timeout_seconds=300), backend=backend, out=out)
        assert results.device.emulator and len([*tmp_path.iterdir()]) == len(found) // 2 + 1
        for row in results.rows:
            assert row.status == OK and row.instructions is not None
            assert row.latency_ms is None and row.peak_memory_bytes is None and row.modelled_latency_ms is not None
            path = exports / row.file
            scorer, labels = load(path), eval_dataset.labels(slice(None))
            here = evaluate(score_dataset(scorer, path, eval_dataset), labels, 0.5).as_dict()
            assert row.gap_at_20 == pytest.approx(here["gap_at_20"], abs=0.002)
            found[key, row.precision] = row
        assert read_results(tmp_path / f"{key}.json").rows[0].instructions == results.rows[0].instructions
        assert (
            "p50" not in markdown_table([results])
            and "Modeled latency" in markdown_table([results])
            and "modeled latency" in table([results])
        )
        assert "ms, not measured" in page([results])
    work = multiply_adds(exports / "fc-late-fusion-int8.tflite")
    assert found["pi5", "int8"].instructions.dot_product_macs >= 0.99 * work
    assert found["pi4", "int8"].instructions.dot_product == 0
    assert found["pi4", "int8"].instructions.integer_multiply_macs >= 0.99 * work
    assert found["pi5", "fp32"].instructions.float_multiply_add_macs >= 0.99 * work


@pytest.mark.emulated
def test_two_processes_count_the_same(system, exports: Path):
    path = exports / "fc-late-fusion-int8.onnx"
    first, second = (counts.instruction_counts(path, "pi5") for _ in range(2))
    # Other counts differ by a few thousandths.
    exact = ("dot_product", "integer_multiply", "float_multiply_add")
    for name in (*exact, *(f"{one}_macs" for one in exact)):
        assert getattr(first, name) == getattr(second, name)
    assert first.instructions == pytest.approx(second.instructions, rel=0.01)


@pytest.mark.emulated
def test_another_processor_than_it_says_ends_in_an_illegal_instruction(system, exports: Path):
    board = dataclasses.replace(parse_emulated("emulated:pi5"), processor="cortex-a72")
    job = counts.guest_job(exports / "fc-late-fusion-int8.tflite", "litert", 300)
    found = counts.count(job, board, system)
    assert found["status"] == "crashed" and found["reason"].startswith("SIGILL")
    assert "instructions that this processor does not have" in found["reason"]


@pytest.mark.emulated
def test_what_is_larger_than_the_memory_does_not_fit(system, exports: Path, tmp_path: Path):
    path = exports / "fc-late-fusion-fp32.onnx"
    large = tmp_path / path.name
    large.write_bytes(path.read_bytes())
    with large.open("r+b") as file:  # The file's size is checked before loading.
        file.truncate(600 * 2**20)
    board = parse_emulated("emulated:pi5:512MiB")
    found = counts.count(counts.guest_job(large, "onnxruntime", 300), board, system)
    assert found["status"] == DOES_NOT_FIT and "needs at least" in found["reason"]
    assert counts.count(counts.guest_job(path, "onnxruntime", 300), board, system)["status"] == OK


@pytest.mark.emulated
def test_a_fleet_of_boards_makes_one_table(system, exports: Path, tmp_path: Path):
    fleet, file, out = tmp_path / "fleet.yaml", exports / "fc-late-fusion-int8.tflite", tmp_path / "r.json"
    fleet.write_text("targets: ['emulated:pi4', 'emulated:pi5']\n")
    command = [sys.executable, "-m", "edge_af", "bench", file, "--target-file", fleet, "--out", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Raspberry Pi 4" in done.stdout and "Raspberry Pi 5" in done.stdout
    rows = [read_results(tmp_path / f"r-emulated-{key}.json").rows[0] for key in ("pi4", "pi5")]
    assert [row.instructions.dot_product > 0 for row in rows] == [False, True]
