"""Measures serving against its physical limit: the bare forward of the same weights on the same cores.

`python -m benchmarks.serving [PART ...]`; each part is a claim or several, and all of them together take about an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import serving_loaded, serving_parts
from benchmarks.appliance import Appliance, exported_folder
from benchmarks.process import Process
from benchmarks.quick_start import BODY
from benchmarks.runner import FAIL, PASS, add_arguments, describe_machine, options_of, table
from benchmarks.serving_fleet import publish_copies
from benchmarks.serving_parts import Finding, Ground

PARTS = ("lone", "clients", "many", "fleet", "batch", "training", "overload")


def part(name: str) -> str:
    """Return a part's name; argparse's own `choices` refuse the default of a list that may be empty."""
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PARTS)}")
    return name


def arguments_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for; all parts where it names none."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("parts", nargs="*", default=PARTS, type=part, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--requests", type=int, default=200, help="of one client in one measurement")
    parser.add_argument("--models", type=int, default=10_000, help="of the fleet")
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--peers-python", help="of an environment with fastapi, transformers and setfit")
    parser.add_argument("--infinity-python", help="of an environment with infinity-emb")
    return parser.parse_args(given)


def main() -> int:
    """Run, print, and return the exit status."""
    arguments = arguments_of()
    works: dict[str, Callable[[Ground], Iterator[Finding]]] = {
        "lone": serving_parts.lone,
        "clients": serving_parts.clients,
        "many": serving_parts.many,
        "fleet": partial(serving_parts.fleet, models=arguments.models),
        "batch": serving_loaded.batch,
        "training": serving_loaded.training,
        "overload": partial(serving_loaded.overload, seconds=arguments.seconds),
    }
    heads = arguments.models if "fleet" in arguments.parts else 1000 if "many" in arguments.parts else 0
    findings: list[Finding] = []
    settings = {"LIMITS__TEXTS": "10000", "PREDICT__BATCH_BYTES": "33554432", "TRAINING__SLOTS": "3"}
    with Appliance(**settings) as daemon:
        connection = daemon.connect()
        connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", BODY | {"suffix": "base"}))

        def publish(data_dir: Path) -> None:
            publish_copies(data_dir, "base", "head", heads)
            if "many" in arguments.parts:
                publish_copies(data_dir, "base", "biases", 32, "biases")
                publish_copies(data_dir, "base", "low-rank", 32, "low_rank")

        if heads:
            daemon.change(publish)
        daemon.rest()
        with (
            Process("benchmarks.serving_load") as load,
            Process("benchmarks.serving_bare", str(exported_folder("int8"))) as bare,
        ):
            given = dict.fromkeys(("pipeline", "setfit"), arguments.peers_python)
            given["infinity"] = arguments.infinity_python
            peers = {kind: python for kind, python in given.items() if python is not None}
            ground = Ground(daemon, load, bare, options_of(arguments), peers, arguments.requests)
            for name in arguments.parts:
                for finding in works[name](ground):
                    print(f"-- {finding.what}: {finding.value} {finding.bound} {said(finding)}", flush=True)
                    findings.append(finding)
    rows = [[finding.what, finding.value, finding.bound, said(finding)] for finding in findings]
    print(f"\nserving, {describe_machine()}")
    print(table(["what", "measured", "claimed", ""], rows))
    return FAIL if any(finding.holds is False for finding in findings) else PASS


def said(finding: Finding) -> str:
    """Return the verdict in a word."""
    return "" if finding.holds is None else "PASS" if finding.holds else "FAIL"


if __name__ == "__main__":
    sys.exit(main())
