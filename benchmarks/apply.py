"""Decides how often a lazy edit is applied, how often wrongly, and how fast.

    python -m benchmarks.apply quality CASES.jsonl
    python -m benchmarks.apply speed CASES.jsonl

CASES are made from the history of git repositories: lines of JSON with `original`, `update`, `expected` (null where the
only right answer is a refusal), `lang` and `kind`. Kinds that do not say enough by design are told apart and count
neither way. An answer is right where it equals what was expected but for empty lines and space at the ends of lines.

quality: of well-specified cases at least 88 % are answered, at most 1 % of the answers are wrong, at least 98 % equal
to the byte; at most 1 % of what must be refused is answered, and no marker is ever in an answer.
speed: through HTTP, at least 4,500 tokens (of 4 characters) a second at the 5th percentile for files up to 1,000 lines,
20 ms at the median and 150 ms at the 95th percentile; and a file of 20,000 lines takes at most n log n as long as one
of 1,000.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks import runner
from benchmarks.appliance import Appliance, Connection
from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import is_marker
from reflexd.engine.evaluation import wilson

VAGUE = {"ctx0h", "raw1", "onesided"}
"""Kinds whose edits do not say enough by design."""
MOST_LINES = 1_000
SIZES = (1_000, 2_000, 5_000, 10_000, 20_000)
REPEATS = 5


class Case(Struct):
    """One edit; `expected` is what the file became, None where it must be refused."""

    original: str
    update: str
    expected: str | None
    lang: str
    kind: str


class Outcome(Struct):
    """What came of a case; all False for a refusal."""

    answered: bool = False
    right: bool = False
    exact: bool = False
    leaked: bool = False


def main() -> int:
    """Run one of them; exit 0 where the claims hold, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument("cases", type=Path)
    given = parser.parse_args()
    cases = msgspec.json.Decoder(Case).decode_lines(given.cases.read_bytes())
    passed = quality(cases) if given.what == "quality" else speed(cases)
    print("PASS" if passed else "FAIL")
    return runner.PASS if passed else runner.FAIL


def quality(cases: list[Case]) -> bool:
    """Tell by language and kind how the engine does."""
    outcomes = [(case, outcome_of(case)) for case in cases]
    well = [(case, one) for case, one in outcomes if case.expected is not None and case.kind not in VAGUE]
    refuse = [one for case, one in outcomes if case.expected is None]
    for title in ("language", "kind"):
        groups: defaultdict[str, list[Outcome]] = defaultdict(list)
        for case, one in well if title == "language" else outcomes:
            groups[case.lang if title == "language" else case.kind].append(one)
        rows = [(name, *figures(group)) for name, group in sorted(groups.items())]
        print(runner.table((title, "cases", "answered", "wrong of these", "exact of these"), rows))
        print()
    every = [one for _, one in well]
    answered = [one for one in every if one.answered]
    wrong = sum(not one.right for one in answered)
    bad = sum(one.answered for one in refuse)
    leaked = sum(one.leaked for _, one in outcomes)
    for name, count, of in (
        ("answered", len(answered), len(every)),
        ("wrong", wrong, len(answered)),
        ("exact", sum(one.exact for one in answered), len(answered)),
        ("answered of what must be refused", bad, len(refuse)),
    ):
        low, high = wilson(count, of)
        print(f"{name}: {count / of:.2%} of {of} (95 % interval {low:.2%} to {high:.2%})")
    print(f"answers with a marker: {leaked}")
    return (
        len(answered) >= 0.88 * len(every)
        and wrong <= 0.01 * len(answered)
        and sum(one.exact for one in answered) >= 0.98 * len(answered)
        and bad <= 0.01 * len(refuse)
        and leaked == 0
    )


def outcome_of(case: Case) -> Outcome:
    """Apply an edit."""
    try:
        text = merge(case.original, case.update).text
    except Refusal:
        return Outcome()
    known = {line.strip() for line in case.original.split("\n")}
    leaked = any(is_marker(line) and line.strip() not in known for line in text.split("\n"))
    if case.expected is None:
        return Outcome(answered=True, leaked=leaked)
    return Outcome(True, said(text) == said(case.expected), text == case.expected, leaked)


def said(text: str) -> list[str]:
    """Return the lines of a text that are not empty, without space at their ends."""
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def figures(group: list[Outcome]) -> tuple[str, str, str, str]:
    """Return what is told of a group of cases."""
    answered = [one for one in group if one.answered]
    n = max(1, len(answered))
    wrong, exact = sum(not one.right for one in answered), sum(one.exact for one in answered)
    return str(len(group)), f"{len(answered) / len(group):.1%}", f"{wrong / n:.1%}", f"{exact / n:.1%}"


def speed(cases: list[Case]) -> bool:
    """Tell how long requests take, one after the other, and how that grows with the file."""
    small = [case for case in cases if case.original.count("\n") <= MOST_LINES]
    with Appliance() as daemon:
        connection = daemon.connect()
        ask(connection, small[0].original, small[0].update)
        statuses: Counter[int] = Counter()
        times, rates = [], []
        for case in small:
            status, took = ask(connection, case.original, case.update)
            statuses[status] += 1
            times.append(took)
            rates.append(len(case.original) / 4 / took)
        p50, p95 = (float(np.quantile(times, share)) for share in (0.5, 0.95))
        p5 = float(np.quantile(rates, 0.05))
        print(f"{len(small)} files up to {MOST_LINES} lines, answers by status: {dict(statuses)}")
        print(f"p50 {p50 * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms; tokens a second at p5 {p5:,.0f}")
        taken = {}
        for lines in SIZES:
            original, update = long_file(lines)
            found = [ask(connection, original, update) for _ in range(REPEATS)]
            assert all(status == 200 for status, _ in found)
            taken[lines] = float(np.median([took for _, took in found]))
            print(f"{lines:>6} lines: {taken[lines] * 1e3:.1f} ms")
    allowed = SIZES[-1] * math.log(SIZES[-1]) / (SIZES[0] * math.log(SIZES[0]))
    grown = taken[SIZES[-1]] / taken[SIZES[0]]
    print(f"20 times the lines take {grown:.1f} times as long; n log n is {allowed:.1f}")
    return p50 <= 0.020 and p95 <= 0.150 and p5 >= 4_500 and grown <= allowed


def ask(connection: Connection, original: str, update: str) -> tuple[int, float]:
    """Return the status and the seconds of one request."""
    content = f"<code>{original}</code>\n<update>{update}</update>"
    body = {"model": "morph-v3-fast", "messages": [{"role": "user", "content": content}]}
    encoded = msgspec.json.encode(body)
    began = time.perf_counter()
    status, _ = connection.exchange("POST", "/v1/chat/completions", encoded)
    took = time.perf_counter() - began
    if status not in (200, 422):
        raise RuntimeError(f"the request was answered {status}")
    return status, took


def long_file(lines: int) -> tuple[str, str]:
    """Return a Python file of so many lines, and an edit of 12 lines at its middle."""
    parts = [
        f"def task_{n}(value):\n    total = value + {n}\n    print(total)\n    return total\n\n"
        for n in range(lines // 5)
    ]
    middle = lines // 10
    update = (
        "# ... existing code ...\n"
        f"def task_{middle}(value):\n    total = value * {middle}\n    print(total)\n    return total\n\n"
        f"def task_{middle + 1}(value):\n    # ... existing code ...\n"
        f"def task_{middle + 2}(value):\n    total = value + 0\n    print(total)\n    return total\n"
        "# ... existing code ...\n"
    )
    return "".join(parts), update


if __name__ == "__main__":
    sys.exit(main())
