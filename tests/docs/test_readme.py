"""Shows that what README.md tells people to type works: each block is run, or listed here with the reason why not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import ROOT, Daemon, environment
from tests.distributions import EXAMPLE, install_example, run_python
from tests.jobs import wait_for_status

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)

RUN = {
    "reflexd keys create me": [r"\A\Z"],
    "cat > rows.json": [r"\A\Z"],
    "import json, os, time, openai": [r"^succeeded \{.*'label': 'billing'"],
    "$(cat rows.json)": [
        r'\A\{"id":"ftjob-.*"status":"queued"',
        r'"object":"list","data":\[\{"id":"tickets"',
        r'"model":"tickets","version":[12],"label":"billing"',
    ],
    '"base_model": "tickets"': [
        r"^id: ftevent-.*-1$",
        r'^data: .*"message":"Job queued"',
        r'^data: .*"message":"Job succeeded: tickets version \d is served"',
        r"^data: \[DONE\]$",
    ],
    "upload rows.jsonl": [
        r'\A\{"id":"ftjob-.*"training_file":"file-[^"]*","validation_file":"file-',
        r'"object":"list","data":\[\{"id":"file-',
    ],
    "reflexd predict tickets": [r"^billing  0\.\d+$", r"ftjob-\S+ +succeeded +tickets", r"tickets +[12] +billing, bug"],
    "reflexd jobs report": [r"\A\Z"],
    "reflexd keys create shop": [
        r"^rfx_\S+$",
        r"^rfx_\S+$",
        r"shop-reader +shop +rfx_\S{4} +predict\b",
        r"^revoked shop-reader \(rfx_\S{4}\)$",
    ],
    "reflexd webhooks create me": [r"^whsec_\S{43}=$", r"^whsec_\S{43}=$", r"\bid +status +attempts\b"],
    "asynchronous_batches": [
        r'\{"id":"rbatch-.*"status":"completed","request_counts":\{"total":2,"completed":1,"failed":1\}',
        r'"results":\[\{"id":"a","predictions":\[\{"model":"tickets",.*\{"id":"b","error":\{"message":',
    ],
    "cat > prices.py": [r"\A\Z"],
    'ask = f"<instruction>': [
        r"\Adef total\(prices\):$",
        r"^    if not prices:$",
        r"^ \{'engine': 'deterministic', 'confidence': 1\.0, 'changed': \[\[6, 7\]\]\}$",
        r"^apply_refused .*\{'reason': 'no_anchor', 'line': 2, 'candidates': \[\]\}$",
    ],
    "<code>host = a": [
        r'\Adata: \{.*"reflexd":\{"engine":"deterministic","confidence":1\.0,"changed":\[\[2,2\]\]',
        r'"content":"[^"]*port = 81\\n',
        r"^data: \[DONE\]$",
    ],
    "reflexd apply prices.py": [
        r"^--- prices\.py\n\+\+\+ prices\.py$",
        r"^\+    if not prices:$",
        r"^would write prices\.py: lines 6-7 new$",
        r"^wrote prices\.py: lines 6-7 new$",
    ],
    "keys create monitor": [
        r"^# TYPE reflexd_predict_seconds histogram$",
        r"^reflexd_predict_waiting 0\.0$",
        r"^reflexd_resident_models [1-9]",
        r'^reflexd_batch_rows_total\{outcome="completed"\} 1\.0$',
    ],
    "reflexd config show --origin": [
        r"^http\.port += 7335 +# default$",
        r"^training\.slots += 1 +# env REFLEXD_TRAINING__SLOTS$",
    ],
    "reflexd plugins list": [r"^ *csv +reflexd-csv-source 0\.1\.0 +register_data_sources", r'\{"id":"ftjob-'],
}
"""A piece of each block that is run, and what it must print, in this order."""

NOT_RUN = {
    "sh packaging/try.sh": "installs for a minute; tests/packaging/test_scripts.py runs it in a clean clone",
    "[network]": "is a file of the operator's; tests/unit/test_egress.py shows what such a list opens",
    "reflexd serve": "serves until it is stopped; the daemon that the other blocks talk to is started by this verb",
    "class CSVSource": "is plugins/example/csv_source.py, as a test below holds; tests/packaging installs and uses it",
    "pip install ./plugins/example": "would change this environment; the daemon here has it by PYTHONPATH",
    "sh packaging/test.sh": "runs this test",
    "reflexd backbones add": "needs a directory of 440 MB; tests/integration/test_backbones.py adds smaller ones",
    '"label_data": {': "needs a language model; tests/integration/test_made_labels.py has one",
    "reflexd llm import": "downloads 1 GB; tests/integration/test_llm_verbs.py imports the wheel and installs",
    "reflexd llm install --wheels": "needs 880 MB of wheels; tests/integration/test_llm_verbs.py has smaller ones",
    "python -m benchmarks.quick_start": "measures for minutes; a test below asks it for its help",
}
"""A piece of each block that is not run, and why."""


def test_each_block_is_run_or_has_a_reason_not_to_be() -> None:
    for language, block in BLOCKS:
        assert language in ("sh", "python", "toml"), f"a block of another kind: {block}"
        found = [piece for piece in (*RUN, *NOT_RUN) if piece in block]
        assert len(found) == 1, f"this block of README.md stands {len(found)} times in the tables {found}:\n{block}"
    for piece in (*RUN, *NOT_RUN):
        assert any(piece in block for _, block in BLOCKS), f"README.md has no block with {piece!r} any more"


def test_the_blocks_do_what_the_page_says(start_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    site = install_example(tmp_path)
    daemon = start_daemon(PYTHONPATH=str(site))
    reader = Reader(daemon, site, tmp_path / "reader")
    for language, block in BLOCKS:
        for piece, patterns in RUN.items():
            if piece in block:
                rest = said = reader.type(language, block)
                for pattern in patterns:
                    found = re.search(pattern, rest, re.MULTILINE)
                    assert found, f"{pattern} is not in its place in what was printed by\n{block}\n{said}"
                    rest = rest[found.end() :]

    with daemon.openai(reader.key()) as client:
        jobs = [wait_for_status(client, job.id, "succeeded") for job in client.fine_tuning.jobs.list()]
    assert [job.model_extra["labels"] for job in jobs] == [
        ["good", "bad"],
        ["billing", "bug"],
        ["billing", "bug", "question"],
        ["billing", "bug"],
        ["billing", "bug"],
    ]
    assert [job.model_extra["version"] for job in jobs] == [1, 1, 3, 2, 1]


def test_the_plugin_on_the_page_is_the_example() -> None:
    assert (EXAMPLE / "csv_source.py").read_text() in [block for _, block in BLOCKS]


def test_the_benchmark_on_the_page_exists() -> None:
    (command,) = [block for _, block in BLOCKS if "benchmarks" in block]
    done = subprocess.run(
        [sys.executable, *command.split()[1:], "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:reflexd|plugins|benchmarks|packaging)/[\w./]*)`", README)))
)
def test_the_files_that_the_page_names_exist(name: str) -> None:
    assert (ROOT / name).exists()


def test_each_exit_code_of_the_program_is_on_the_page() -> None:
    said = run_python(
        "-c", "import reflexd.errors as e; print(*{c.exit_code for c in vars(e).values() if hasattr(c, 'exit_code')})"
    )
    for code in said.split():
        assert re.search(rf"^\| (\d+, )?{code}\b.*\|", README, re.MULTILINE), (
            f"README.md does not explain exit code {code}"
        )


class Reader:
    """Somebody who types the blocks one after the other, in one shell, into a folder of their own."""

    def __init__(self, daemon: Daemon, site: Path, home: Path) -> None:
        home.mkdir()
        self._daemon = daemon
        self._home = home
        self._variables = home / "variables.sh"
        self._variables.write_text("")
        # The program as it is on the path of an activated environment; the page's address stands for the test's.
        self._env = environment(REFLEXD_STORAGE__DATA_DIR=str(daemon.data_dir), REFLEXD_URL=daemon.url)
        self._env |= {"PYTHONPATH": str(site), "PATH": f"{Path(sys.executable).parent}:{self._env['PATH']}"}

    def type(self, language: str, block: str) -> str:
        """Run a block and return what it printed on stdout; fail when it fails."""
        typed = block.replace("http://127.0.0.1:7335", self._daemon.url)
        if language == "python":
            (self._home / "block.py").write_text(typed)
            typed = "python block.py"
        script = f". {self._variables}\nset -eu\n{typed}\nexport -p > {self._variables}\n"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self._home,
            env=self._env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\nfailed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def key(self) -> str:
        """Return the key that the page had its reader make."""
        (key,) = re.findall(r"REFLEXD_API_KEY='?(rfx_[\w-]+)", self._variables.read_text())
        return key
