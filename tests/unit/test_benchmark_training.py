"""The training benchmark scores as its formulas say, goes on where it stopped, and counts no missing cell as met."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import few_shot, training
from benchmarks.training_cells import (
    SEEDS,
    SETFIT_ROWS,
    SETFIT_SETS,
    SINGLE_LABEL,
    Cell,
    Example,
    Line,
    append,
    cells,
    draw_multi,
    read_results,
)
from benchmarks.training_claims import Outcomes, beside_peers, judge
from benchmarks.training_peers import best_threshold, linear, regression
from benchmarks.training_plot import draw, points
from benchmarks.training_report import tell
from benchmarks.training_scores import debiased_ece, paired_bootstrap


def line(cell: Cell, correct: str = "1101", core_seconds: float = 1.0, **more: object) -> Line:
    share = correct.count("1") / len(correct)
    return Line(
        side=cell.side,
        set=cell.set,
        rows=cell.rows,
        seed=cell.seed,
        n_train=16,
        n_test=len(correct),
        accuracy=share,
        macro_f1=share,
        core_seconds=core_seconds,
        wall=core_seconds,
        correct=correct,
        versions={},
        date="2026-01-01 00:00",
        machine="made up",
        **more,
    )


def test_ece_of_a_case_by_hand() -> None:
    # Two bins of four rows: .6 said and 1 of 4 right; .9 said and 3 of 4 right.
    confidences = [0.6, 0.9, 0.6, 0.9, 0.6, 0.9, 0.6, 0.9]
    correct = [True, True, False, True, False, True, False, False]
    by_chance = 0.25 * 0.75 / 3
    expected = np.sqrt(0.5 * (0.35**2 - by_chance) + 0.5 * (0.15**2 - by_chance))
    assert debiased_ece(confidences, correct, bins=2) == pytest.approx(expected)


def test_ece_of_confidences_that_are_true_is_small_where_the_plain_one_is_not() -> None:
    random = np.random.default_rng(1)
    debiased, plain = [], []
    for _ in range(200):
        said = random.uniform(0.5, 1, 150)
        correct = random.uniform(size=150) < said
        debiased.append(debiased_ece(said, correct) ** 2)
        bins = np.array_split(np.argsort(said), 15)
        plain.append(np.mean([(said[b].mean() - correct[b].mean()) ** 2 for b in bins]))
    # The median of a square that is cut off at zero is near zero where its mean would be unbiased.
    assert np.median(debiased) < 0.002
    assert np.median(plain) > 0.01


def test_ece_finds_confidences_that_are_too_high() -> None:
    correct = np.random.default_rng(2).uniform(size=3000) < 0.7
    assert debiased_ece(np.full(3000, 0.9), correct) == pytest.approx(0.2, abs=0.02)


def test_ece_refuses_too_few_rows() -> None:
    with pytest.raises(ValueError, match="29 confidences and 29 outcomes do not fill 15 bins"):
        debiased_ece([0.5] * 29, [True] * 29)


def test_bootstrap_of_a_difference_without_variance_has_no_width() -> None:
    found = paired_bootstrap([np.ones((3, 20)), np.zeros((3, 50))])
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_bootstrap_spreads_as_test_rows_do() -> None:
    row = np.array([[1.0, 0.0, 0.0, 0.0] * 100])
    found = paired_bootstrap([row])
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert found.mean == 0.25
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
    assert paired_bootstrap([row], seed=1) == paired_bootstrap([row], seed=1)


def test_bootstrap_spreads_as_seeds_do() -> None:
    found = paired_bootstrap([np.array([[0.0] * 50, [1.0] * 50])])
    assert (found.low, found.mean, found.high) == pytest.approx((0, 0.5, 1))


def test_a_run_measures_what_is_missing_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sst2"
    folder.mkdir()
    for part, count in (("train", 40), ("test", 6)):
        rows = [{"text": f"a {('good', 'bad')[n % 2]} film {n}", "label": "pn"[n % 2]} for n in range(count)]
        (folder / f"{part}.jsonl.gz").write_bytes(gzip.compress(b"\n".join(json.dumps(row).encode() for row in rows)))
    monkeypatch.setattr(few_shot, "DATA", tmp_path)
    results = tmp_path / "results.jsonl"

    def run(*seeds: str) -> str:
        command = ["run", "--results", str(results), "--sides", "tfidf", "--sets", "sst2", "--rows", "8"]
        training.run(training.parser().parse_args([*command, "--seeds", *seeds]))
        return capsys.readouterr().out

    assert run("0").startswith("1 cells, 0 of them there already\nsst2, 8 rows a label, seed 0, tfidf: accuracy 1.0000")
    (kept,) = read_results(results)
    with results.open("ab") as file:
        file.write(b'{"side":"tfidf","set":"ss')  # as a killed run may leave it
    assert run("0", "1").startswith("2 cells, 1 of them there already\nsst2, 8 rows a label, seed 1")
    assert run("0", "1") == "2 cells, 2 of them there already\n"
    lines = read_results(results)
    assert [each.cell for each in lines] == cells(["tfidf"], ["sst2"], ["8"], [0, 1])
    assert lines[0] == kept
    assert (kept.n_train, kept.n_test, kept.correct, kept.accuracy, kept.macro_f1) == (16, 6, "111111", 1, 1)
    assert kept.core_seconds > 0


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    cell = Cell("ours", "sst2", "8", 1)
    written = line(cell, ece=0.031, result={"accuracy": 0.8, "interval": [0.4, 0.9]})
    append(tmp_path / "r", written)
    append(tmp_path / "r", line(Cell("tfidf", "sst2", "8", 1)))
    assert read_results(tmp_path / "r")[0] == written
    assert len(read_results(tmp_path / "r")) == 2
    assert read_results(tmp_path / "none") == []


def test_accuracy_at_the_shares_of_the_training_rows() -> None:
    test = [Example("", ["a"])] * 3 + [Example("", ["b"])]
    train = [Example("", ["a"]), Example("", ["b"])]
    # All of a and none of b are right: three quarters of the test rows, half of the training rows.
    assert training.at_shares("1110", test, train) == pytest.approx(0.5)
    assert training.at_shares("1110", test, test) == pytest.approx(0.75)


def test_sides_of_one_draw_lie_together_in_time_and_cheap_ones_come_first() -> None:
    sides = ["setfit", "ours", "tfidf"]
    found = [(c.side, c.rows, c.seed) for c in cells(sides, ["sst2"], ["8", "64"], [0, 1])]
    few = [("tfidf", "8", 0), ("ours", "8", 0), ("setfit", "8", 0), ("tfidf", "64", 0), ("ours", "64", 0)]
    assert found == [*few, *((side, rows, 1) for side, rows, _ in few)]


def test_rows_of_several_labels_are_drawn_by_each_label_and_kept_once() -> None:
    examples = [Example(f"both {n}", ["a", "b"]) for n in range(3)] + [Example(f"a {n}", ["a"]) for n in range(30)]
    drawn = draw_multi(examples, 3, seed=0)
    assert len(drawn) == len({each.text for each in drawn})
    assert {f"both {n}" for n in range(3)} <= {each.text for each in drawn}  # all the rows that have b
    assert sum("a" in each.labels for each in drawn) >= 3
    assert draw_multi(examples, 3, seed=0) == drawn
    assert draw_multi(examples, 3, seed=1) != drawn


def test_the_best_threshold_lies_between_two_scores() -> None:
    scores, truth = np.array([0.1, 0.9, 0.4, 0.6]), np.array([0, 1, 0, 1])
    assert best_threshold(scores, truth) == pytest.approx(0.5)
    assert best_threshold(np.array([0.3, 0.3]), np.array([1, 0])) == pytest.approx(0.3)  # a tie is taken whole


def test_one_versus_rest_selects_several_labels() -> None:
    points = np.repeat(np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), 10, axis=0)
    labels = [[name for name, on in zip("ab", point, strict=True) if on] for point in points]
    predict = linear(lambda wrap: wrap(regression(10)), points, labels, seed=0, multi=True)
    assert predict(points[::10]) == [[], ["b"], ["a"], ["a", "b"]]


def setfit_cells(change: Callable[[Cell], Line]) -> list[Line]:
    return [change(cell) for cell in cells(["ours", "setfit"], SETFIT_SETS, SETFIT_ROWS, SEEDS)]


def test_beside_setfit_both_accuracy_and_cost_are_judged() -> None:
    def first(ours: str, seconds: float) -> tuple[bool | None, str]:
        lines = setfit_cells(lambda c: line(c, ours, seconds) if c.side == "ours" else line(c, "1100", 100))
        verdict = judge(Outcomes(lines))[0]
        return verdict.held, verdict.found

    assert first("1110", 9)[0] is True
    assert "+0.2500" in first("1110", 9)[1]
    assert first("1110", 11)[0] is False
    assert first("1000", 9)[0] is False


def test_a_missing_cell_is_named_and_nothing_is_met(capsys: pytest.CaptureFixture[str]) -> None:
    lines = setfit_cells(lambda cell: line(cell, core_seconds=1 if cell.side == "ours" else 100))
    lacking = next(each for each in lines if each.cell == Cell("setfit", "snips", "16", 2))
    lines.remove(lacking)
    assert tell(lines) == 1
    said = capsys.readouterr().out
    assert "MISSING: ours at least SetFit's" in said
    assert "missing 1 of 36 cells: setfit snips 16 seed 2\n" in said
    assert "PASS" not in said


def test_the_best_peer_is_met_on_the_seeds_that_it_has() -> None:
    right = {"tfidf": "1000", "frozen": "1100", "full": "1110", "ours": "1110"}
    wanted = cells(right, SINGLE_LABEL, ["64"], SEEDS)
    # Ours is worse on seeds that full fine-tuning was not run on.
    lines = [line(c, "0000" if c.side == "ours" and c.seed else right[c.side]) for c in wanted]
    found, held = beside_peers(Outcomes(lines), "64")
    assert found.startswith("best is full")
    assert held
    worse = [line(c, "1100") if c.side == "ours" else each for c, each in zip(wanted, lines, strict=True)]
    assert not beside_peers(Outcomes(worse), "64")[1]


def test_the_plot_has_a_point_for_each_side_and_size_that_was_measured_on_all_sets() -> None:
    lines = setfit_cells(lambda cell: line(cell, core_seconds=1 if cell.side == "ours" else 100))
    found = points([each for each in lines if each.cell != Cell("ours", "sst2", "8", 0)])
    assert [(point.side, point.rows) for point in found] == [
        ("ours", "8"),
        ("ours", "16"),
        ("setfit", "8"),
        ("setfit", "16"),
    ]
    assert found[2].seconds == 100
    root = ET.fromstring(draw(found))
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "ours, 8 rows a label: 0.750 in 1.00 core-s"
    assert len(titles) == 4
    assert points([each for each in lines if each.set != "sst2"]) == []
    with pytest.raises(ValueError, match="no side has outcomes on all of trec6"):
        draw([])
