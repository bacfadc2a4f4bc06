"""Shows that a stranger's plugin works by its entry point alone, and that a broken one stops the start by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from tests.daemons import Daemon, free_port, reflexd
from tests.distributions import EXAMPLE, install_example, write_plugin
from tests.jobs import create, predict, wait_for_status
from tests.rows import BILLING, BUG

CSV = "text,label\n" + "".join(
    f'"{text}",{label}\n' for label, texts in (("billing", BILLING), ("bug", BUG)) for text in texts
)
BROKEN = {
    "misspelt": (
        "from reflexd import hookimpl\n@hookimpl\ndef register_data_source(register): ...\n",
        "register_data_source",
    ),
    "argument": (
        "from reflexd import hookimpl\n@hookimpl\ndef register_data_sources(registrar): ...\n",
        "registrar",
    ),
    "unimportable": (
        "import a_module_that_nobody_has\n",
        "cannot be imported: No module named 'a_module_that_nobody_has'",
    ),
    "raising": ("raise RuntimeError('out of order')\n", "RuntimeError: out of order"),
}

COLLIDING = """
from reflexd import hookimpl

class Source:
    name = "training_data"

@hookimpl
def register_data_sources(register):
    register(Source())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example plugin is installed from its wheel."""
    return install_example(tmp_path_factory.mktemp("example"))


def test_the_example_has_under_20_lines_and_uses_only_the_public_api() -> None:
    lines = (EXAMPLE / "csv_source.py").read_text().splitlines()
    imports = [line for line in lines if line.startswith(("import ", "from "))]

    assert len([line for line in lines if line.strip()]) < 20
    assert imports == [
        "import csv",
        "import io",
        "from typing import Any",
        "from reflexd import Example, InvalidInput, hookimpl",
    ]


def test_the_wheel_holds_the_module_and_its_entry_point_alone(site: Path) -> None:
    assert {path.name for path in site.glob("*.py")} == {"csv_source.py"}
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert entry_points.read_text().split() == ["[reflexd]", "csv", "=", "csv_source"]


def test_plugins_list_shows_the_example_beside_the_built_ins(site: Path) -> None:
    done = reflexd("plugins", "list", "--json", PYTHONPATH=str(site))
    rows = {row["name"]: row for row in json.loads(done.stdout)}

    assert rows["csv"] == {"name": "csv", "from": "reflexd-csv-source 0.1.0", "hooks": "register_data_sources"}
    assert rows["inline"]["hooks"] == "register_data_sources"
    assert "csv" not in {row["name"] for row in json.loads(reflexd("plugins", "list", "--json").stdout)}


def test_csv_in_the_request_trains_a_classifier(site: Path, start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(PYTHONPATH=str(site))
    with daemon.openai() as client:
        made = client.fine_tuning.jobs.create(
            model="morph-reflex-v1", training_file="", suffix="from-csv", extra_body={"csv": {"text": CSV}}
        )
        job = wait_for_status(client, made.id, "succeeded")

        assert job.model_extra["labels"] == ["billing", "bug"]
        assert job.model_extra["trained_examples"] == 10
        assert predict(client, "from-csv", "I was billed twice this month")["label"] == "billing"

        for payload, param, said in (
            ({"text": "body,class\na,b\n"}, "csv.text", "header text,label"),
            ({"text": "text,label\nan unquoted, comma,bug\n"}, "csv.text", "header text,label"),
            ({"text": 'text,label\n"never closed,bug\n'}, "csv.text", "unexpected end of data"),
            ({}, "csv.text", "header text,label"),
            ("text,label\n", "csv.text", "header text,label"),
            ({"text": CSV + "a line without a label\n"}, "csv[10].label", "needs label or labels"),
            ({"text": ""}, "csv", "2 different labels"),
        ):
            with pytest.raises(openai.BadRequestError, match=said) as refused:
                client.fine_tuning.jobs.create(model="morph-reflex-v1", training_file="", extra_body={"csv": payload})
            assert refused.value.param == param

        with pytest.raises(openai.BadRequestError, match="Exactly one input"):
            create(client, [{"text": "a", "label": "b"}], csv={"text": CSV})
    assert len(daemon.runs()) == 1, "a refused request leaves nothing behind"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_stops_the_start_with_one_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    source, said = BROKEN[name]
    write_plugin(tmp_path, name, source)

    done = reflexd("serve", "--data-dir", tmp_path / "d", "--port", str(free_port()), PYTHONPATH=str(tmp_path))

    assert done.returncode == 78
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith(f"reflexd: plugin {name} (stranger-{name} 1.0): ")
    assert said in sentence
    assert done.stdout == ""


def test_a_plugin_that_takes_a_taken_name_stops_the_start_and_both_are_named(tmp_path: Path) -> None:
    write_plugin(tmp_path, "thief", COLLIDING)

    done = reflexd("serve", "--data-dir", tmp_path / "d", "--port", str(free_port()), PYTHONPATH=str(tmp_path))

    assert done.returncode == 78
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("reflexd: plugin thief (stranger-thief 1.0): ")
    assert sentence.endswith("plugin inline already registers the name 'training_data'")


def test_two_plugins_of_one_name_stop_the_start(tmp_path: Path) -> None:
    write_plugin(tmp_path, "inline", "")

    done = reflexd("serve", "--data-dir", tmp_path / "d", "--port", str(free_port()), PYTHONPATH=str(tmp_path))

    assert done.returncode == 78
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("reflexd: plugin inline: both ")
    assert "stranger-inline 1.0" in sentence
    assert "reflexd 0.1.0" in sentence


def test_a_broken_plugin_that_is_not_allowed_is_not_loaded(tmp_path: Path) -> None:
    write_plugin(tmp_path, "raising", BROKEN["raising"][0])

    allowed = "inline,checkpoints,local_executor"
    done = reflexd("plugins", "list", "--json", PYTHONPATH=str(tmp_path), REFLEXD_PLUGINS__ALLOW=allowed)

    assert sorted(row["name"] for row in json.loads(done.stdout)) == sorted(allowed.split(","))
