"""The runner interleaves its sides, reports medians and ratios, and calls a run void when its control drifts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.process import Process
from benchmarks.runner import FAIL, PASS, VOID, Options, Side, as_text, compare, finish, order, ratio, spread, table


def playing(values: Iterable[float]) -> Callable[[], float]:
    """Return a measurement that plays back synthetic timings."""
    return iter(values).__next__


def steady(value: float) -> Callable[[], float]:
    return playing(itertools.repeat(value))


def test_a_round_follows_each_baseline_with_every_other_side() -> None:
    assert order(["a", "b", "c"], 0) == ["a", "b", "c", "a again", "b", "c"]
    assert order(["a", "b", "c"], 1) == ["a again", "b", "c", "a", "b", "c"]


def test_sides_are_interleaved_after_a_warm_up() -> None:
    called: list[str] = []

    def side(name: str) -> Side:
        return Side(name, lambda: called.append(name) or 1.0)

    compare("t", [side("a"), side("b")], Options(rounds=7, warmups=2))
    assert called == ["a", "b"] * 2 + ["a", "b", "a", "b"] * 7


def test_medians_and_ratios() -> None:
    # One warm-up; then two measurements a round: 1 and 1, 2 and 2, 9 and 9.
    ours = playing([50.0, 4.0, 6.0, 8.0, 12.0, 27.0, 27.0])
    report = compare("t", [Side("a", playing([50.0, 1, 1, 2, 2, 9, 9])), Side("b", ours)], Options(rounds=3))
    assert report.sides["a"].values == [1, 1, 2, 2, 9, 9]
    assert report.sides["a"].median == 2
    assert report.sides["b"].median == 10
    assert report.ratios["b"].median == 5  # of 10/2, 20/4 and 54/18
    assert report.control.median == 1
    assert report.void is None


def test_p90() -> None:
    assert spread([float(n) for n in range(11)]).p90 == 9


def test_a_control_that_drifts_makes_the_run_void(capsys: pytest.CaptureFixture[str]) -> None:
    # The control takes the second place in even rounds and the first one in odd rounds.
    drifting = playing([1.0, 1.0, 1.1, 1.1, 1.0, 1.0, 1.1])
    report = compare("t", [Side("a", drifting), Side("b", steady(1.0))], Options(rounds=3))
    assert report.control.median == pytest.approx(1.1)
    assert finish(report, passed=True) == VOID
    assert "VOID: the A/A control is off by 10.0%, over 5%" in capsys.readouterr().out


def test_the_tolerance_is_an_option() -> None:
    drifting = playing([1.0, 1.0, 1.1, 1.1, 1.0, 1.0, 1.1])
    report = compare("t", [Side("a", drifting), Side("b", steady(1.0))], Options(rounds=3, tolerance=0.2))
    assert finish(report, passed=True) == PASS


def test_a_control_that_is_too_fast_is_as_void_as_one_that_is_too_slow() -> None:
    report = compare("t", [Side("a", playing([1.0, 1.0, 0.5, 0.5, 1.0])), Side("b", steady(1.0))], Options(rounds=2))
    assert report.void is not None


def test_a_machine_that_slows_down_steadily_favours_no_side() -> None:
    clock = itertools.count(1000)
    sides = [Side("a", lambda: float(next(clock))), Side("b", lambda: float(next(clock)))]
    report = compare("t", sides, Options(rounds=50))
    assert report.control.median == pytest.approx(1, abs=0.001)
    assert report.ratios["b"].median == pytest.approx(1, abs=0.001)


def test_the_interval_follows_from_the_seed() -> None:
    random = np.random.default_rng(3)
    values, baseline = random.normal(2, 0.2, 15).tolist(), random.normal(1, 0.1, 15).tolist()
    assert ratio(values, baseline, seed=1) == ratio(values, baseline, seed=1)
    assert ratio(values, baseline, seed=1) != ratio(values, baseline, seed=2)
    found = ratio(values, baseline, seed=1)
    assert found.low <= found.median <= found.high
    assert 1.5 < found.low < found.high < 2.5


def test_equal_ratios_have_no_width() -> None:
    assert ratio([2.0, 4.0], [1.0, 2.0], seed=0) == ratio([2.0], [1.0], seed=0)


def test_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compare("job against script", [Side("script", steady(0.5)), Side("job", steady(1.0))], Options())
    assert finish(report, passed=False, to=tmp_path / "out.json") == FAIL
    said = capsys.readouterr().out
    assert said.startswith("job against script, 7 rounds, ")
    assert "2.00x" in as_text(report)
    assert said.endswith("FAIL\n")
    written = json.loads((tmp_path / "out.json").read_bytes())
    assert written["ratios"]["job"]["median"] == 2
    assert written["sides"]["script"]["values"] == [0.5] * 14


def test_table_aligns() -> None:
    assert table(["side", "s"], [["a", "10"], ["longer", "2"]]) == "side     s\na       10\nlonger   2"


def test_a_side_in_its_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "doubling.py").write_text("from benchmarks.process import serve\nserve(lambda n: {'got': 2 * n})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with Process("doubling") as process:
        assert process.ask(n=2) == {"got": 4}
        assert process.ask(n=21) == {"got": 42}


def test_a_side_whose_process_ends_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ending.py").write_text("raise SystemExit(5)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with Process("ending") as process, pytest.raises((RuntimeError, BrokenPipeError)):
        process.ask(n=1)
