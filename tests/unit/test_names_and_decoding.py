"""Shows which served names are allowed, and that a body's fault is told with the path of its field."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflexd.errors import InvalidJSON, InvalidRequest, ReflexError
from reflexd.service.decoding import decode
from reflexd.service.names import check_suffix


class Inner(msgspec.Struct):
    label: str


class Body(msgspec.Struct):
    rows: list[Inner]
    seed: int | None = None


@pytest.mark.parametrize("name", ["support-classifier", "a", "Größe 2", "v1.2_(old):x", "分類器", "हिन्दी", "x" * 64])
def test_good_names(name: str) -> None:
    assert check_suffix(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "x" * 65, "a/b", "a\\b", "../x", "a..b", ".hidden", "-x", "a ", "a\nb", "a\0b", "a\x7fb",
        "a@3", "a%2Fb", "a?b",
        "ftjob-1", "FTJOB-1", "morph-v3-fast", "a\u202eb", "a\u200bb", "e\u0301", "a\ud800",
    ],
)  # fmt: skip
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_suffix(name)
    assert caught.value.param == "suffix"


@given(st.text(max_size=80))
def test_an_allowed_name_is_never_a_path_or_an_id(name: str) -> None:
    try:
        check_suffix(name)
    except InvalidRequest:
        return
    assert not set(name) & set("/\\@\0\n\r%?#")
    assert ".." not in name
    assert not name.lower().startswith("ftjob-")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"rows": [{"label": "a"}, {"label": 3}]}', "rows[1].label"),
        (b'{"rows": [{}]}', "rows[0].label"),
        (b"{}", "rows"),
        (b'{"rows": 1}', "rows"),
        (b'{"rows": [], "seed": "x"}', "seed"),
        (b"[]", None),
    ],
)
def test_a_wrong_type_names_its_field(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(body, Body)
    assert caught.value.param == param
    assert not isinstance(caught.value, InvalidJSON)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"\xff\xfe", None),
        (b'{"rows": NaN}', None),
        (rb'{"rows": [{"label": "ok \ud83d\ude00"}, {"label": "\ud800"}]}', "rows[1].label"),
        (rb'{"rows": [{"label": "\uDFFF x"}]}', "rows[0].label"),
        (rb'{"rows": [{"label": "\ud800"', None),
    ],
)
def test_what_is_no_json_says_so(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidJSON) as caught:
        decode(body, Body)
    assert caught.value.param == param
    assert caught.value.code == "invalid_json"


@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_400(body: bytes) -> None:
    try:
        decode(body, dict[str, msgspec.Raw])
    except ReflexError as error:
        said = error
    else:
        return
    assert isinstance(said, InvalidRequest)


def test_nesting_without_end_is_a_400() -> None:
    for body in (b"[" * 100_000, b'{"rows":' + b"[" * 100_000, b'{"x":' + b'{"a":' * 100_000):
        with pytest.raises(InvalidRequest):
            decode(body, Body)
        with pytest.raises(InvalidRequest):
            decode(body, dict[str, object])
