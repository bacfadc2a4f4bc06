"""Shows that the tool definition for agents is one, and that the edit which it gives as an example is merged."""

from __future__ import annotations

import json
import re

import jsonschema_rs
import pytest
from openai.types.chat import ChatCompletionFunctionToolParam
from pydantic import TypeAdapter, with_config

from reflexd.engine.apply.merge import merge
from reflexd.engine.apply.snippet import is_marker
from tests.daemons import ROOT

TEXT = (ROOT / "packaging" / "edit_file.json").read_text(encoding="utf-8")
FUNCTION = json.loads(TEXT)["function"]
CALL = {"target_file": "cart.py", "instructions": "I add a discount.", "code_edit": "# ... existing code ..."}


def test_it_is_what_openai_takes_as_a_tool() -> None:
    strict = with_config({"extra": "forbid"})(ChatCompletionFunctionToolParam)
    assert TypeAdapter(strict).validate_json(TEXT, strict=True)["function"]["name"] == "edit_file"


def test_a_call_has_all_three_fields_and_no_other() -> None:
    jsonschema_rs.meta.validate(FUNCTION["parameters"])
    schema = jsonschema_rs.validator_for(FUNCTION["parameters"])
    assert schema.is_valid(CALL)
    for field in CALL:
        assert not schema.is_valid({name: value for name, value in CALL.items() if name != field}), field
        assert not schema.is_valid({**CALL, field: 1}), field
    assert not schema.is_valid({**CALL, "more": "x"})


def test_its_example_is_merged_as_it_says() -> None:
    file, edit, result = re.findall(r"```\n(.*?)```", FUNCTION["description"], re.DOTALL)
    assert merge(file, edit).text == result
    assert file != result


@pytest.mark.parametrize("marker", re.findall(r"`([^`\n]*existing code[^`\n]*)`", FUNCTION["description"]))
def test_its_markers_are_known(marker: str) -> None:
    assert is_marker(marker)


def test_it_names_markers_of_several_languages() -> None:
    assert len(re.findall(r"`[^`\n]*existing code[^`\n]*`", FUNCTION["description"])) == 3
