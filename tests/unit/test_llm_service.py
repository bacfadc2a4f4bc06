"""Shows what an operator may do with language models: add, list and remove them, have the keeper start and stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reflexd.config import Llm
from reflexd.errors import LanguageModelRefused
from reflexd.registry import llms
from reflexd.registry.llms import Weights
from reflexd.service.llms import LanguageModelService
from tests.checkpoints import tiny_writer

pytestmark = pytest.mark.anyio


class Obedient:
    """A keeper that does as it is told."""

    def __init__(self) -> None:
        self.state = "stopped"

    async def status(self) -> dict[str, Any]:
        return {"state": self.state}

    async def start(self) -> None:
        self.state = "running"

    async def stop(self) -> None:
        self.state = "stopped"


def put(root: Path, name: str, created_at: int) -> Path:
    """Lay the record of a language model into the data directory, with nothing beside it."""
    folder = llms.new_place(root)
    folder.mkdir(parents=True)
    record = Weights(
        name=name,
        fingerprint=name * 8,
        architecture="llama",
        parameters=1,
        context_tokens=0,
        dtype="BF16",
        bytes=0,
        license="",
        source=name,
        files={},
        created_at=created_at,
    )
    llms.write_record(folder, record)
    return folder


async def test_added_in_a_process_of_its_own(tmp_path: Path) -> None:
    service = LanguageModelService(tmp_path / "llm", Llm())
    writer = tiny_writer(tmp_path / "tiny")
    row = await service.add([str(writer)], "mine")
    assert (row["name"], row["configured"], row["known"]) == ("mine", True, "")
    assert await service.rows() == [row]
    with pytest.raises(LanguageModelRefused, match="this language model is there already: its name is mine"):
        await service.add([str(writer)], "again")
    assert await service.rows() == [row]
    assert await service.remove("mine") == row
    assert list((tmp_path / "llm" / "models").iterdir()) == []


@pytest.mark.parametrize("paths", [[], ["relative"], [7], ["/absolute", "relative"]])
async def test_paths_must_be_absolute(tmp_path: Path, paths: list[Any]) -> None:
    with pytest.raises(LanguageModelRefused, match="give the absolute path"):
        await LanguageModelService(tmp_path, Llm()).add(paths)


async def test_which_one_is_used(tmp_path: Path) -> None:
    put(tmp_path, "old", 1)
    put(tmp_path, "new", 2)
    used: dict[str, dict[str, bool]] = {}
    for model in ("", "old", "absent"):
        rows = await LanguageModelService(tmp_path, Llm(model=model)).rows()
        used[model] = {row["name"]: row["configured"] for row in rows}
    assert used == {
        "": {"new": True, "old": False},
        "old": {"new": False, "old": True},
        "absent": {"new": False, "old": False},
    }
    elsewhere = LanguageModelService(tmp_path, Llm(model="old", url="http://127.0.0.1:9/v1"))
    assert not any(row["configured"] for row in await elsewhere.rows())


async def test_the_configured_one_is_not_removed(tmp_path: Path) -> None:
    old = put(tmp_path, "old", 1)
    service = LanguageModelService(tmp_path, Llm(model="old"))
    with pytest.raises(LanguageModelRefused, match=r"old is in use: \[llm\] model names it"):
        await service.remove("old")
    with pytest.raises(LanguageModelRefused, match=r"\.\./old is no language model that is here"):
        await service.remove("../old")
    assert old.exists()
    await LanguageModelService(tmp_path, Llm(model="old", url="http://127.0.0.1:9/v1")).remove("old")
    assert not old.exists()


async def test_status_says_what_is_missing(tmp_path: Path) -> None:
    async def missing(**given: Any) -> list[str]:
        found: list[str] = (await LanguageModelService(tmp_path, Llm(**given)).status())["missing"]
        return found

    assert await missing() == ["no language model is imported: run `reflexd llm import PATH`"]
    assert await missing(model="other", engine="vllm") == [
        "[llm] model: there is no 'other': run `reflexd llm import PATH`",
        '[llm] engine is "vllm", which is not installed: run `reflexd llm install`',
    ]
    assert await missing(url="http://127.0.0.1:9/v1", engine="vllm") == []
    put(tmp_path, "one", 1)
    assert await missing() == []


async def test_the_keeper_starts_and_stops_it(tmp_path: Path) -> None:
    service = LanguageModelService(tmp_path, Llm(), Obedient())
    assert (await service.status())["process"] == {"state": "stopped"}
    assert (await service.start())["process"] == {"state": "running"}
    assert (await service.stop())["process"] == {"state": "stopped"}
    alone = LanguageModelService(tmp_path, Llm())
    assert (await alone.status())["process"] is None
    for verb in (alone.start, alone.stop):
        with pytest.raises(LanguageModelRefused, match="only a running daemon keeps a language model"):
            await verb()
