"""Shows that words from memory are spelled as the tokenizer spells the text, and that the rest is left to it."""

from __future__ import annotations

import string
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from reflexd.engine import words
from reflexd.engine.words import LONGEST, words_of

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *string.digits, *string.punctuation]
PIECES += [f"##{letter}" for letter in string.ascii_lowercase if letter != "q"]  # a word with q inside is unknown
PIECES += ["the", "fox", "##ing", "##es", "12", "##34"]


def bert(*special: str, lowercase: bool = True, **rules: bool) -> Tokenizer:
    """Return a tokenizer with BERT's rules and few words."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=20))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase, **rules)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *special])
    return made


TOKENIZER = bert()
KNOWN = words_of(TOKENIZER)
PLAIN = st.text(st.sampled_from(string.printable), max_size=200)
WORDY = st.lists(st.sampled_from(["the", "The", "foxes", "fox", "aqua", "1234", "a" * 21, "ing", "-", "_", "\n", "'s"]))


@given(st.one_of(PLAIN, WORDY.map(" ".join), st.text(max_size=50)))
@example("")
@example(" \t\r\n")
@example("a\x0bb")
@example("a\x1cb\x7fc\x00d")
@example("the [MASK] fox[SEP]")
@example("under_score ^ ` ~ $ + < = > |")
@settings(max_examples=1000, deadline=None)
def test_ids_are_the_tokenizers(text: str) -> None:
    assert KNOWN is not None
    found = KNOWN.spelled(text)
    assert found is None or found == TOKENIZER.encode(text).ids


def test_plain_texts_are_spelled_from_memory() -> None:
    assert KNOWN is not None
    for text in ("the fox", "The FOX, 1234!", "two\nlines\tand more", "x" * LONGEST, ""):
        assert KNOWN.spelled(text) == TOKENIZER.encode(text).ids


@pytest.mark.parametrize("text", ["é", "the [MASK]", "a\x00b", "a\x0bb", "x" * (LONGEST + 1)])
def test_what_is_not_plain_is_the_tokenizers(text: str) -> None:
    assert KNOWN is not None
    assert KNOWN.spelled(text) is None


def test_a_tokenizer_that_keeps_case_is_heeded() -> None:
    cased = bert(lowercase=False)
    known = words_of(cased)
    assert known is not None
    assert known.spelled("The the") == cased.encode("The the").ids != TOKENIZER.encode("The the").ids


def test_a_special_token_of_another_kind_is_heeded() -> None:
    known = words_of(bert("<s>"))
    assert known is not None
    assert known.spelled("a <s> b") is None


def test_tokenizers_with_other_rules_are_left_alone() -> None:
    assert words_of(bert("WORD")) is None  # a special token like any word
    assert words_of(bert(clean_text=False)) is None
    for part, other in (
        ("normalizer", normalizers.Lowercase()),
        ("pre_tokenizer", pre_tokenizers.Whitespace()),
        ("pre_tokenizer", None),
    ):
        tokenizer = bert()
        setattr(tokenizer, part, other)
        assert words_of(tokenizer) is None
    tokenizer = bert()
    tokenizer.model = models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")
    assert words_of(tokenizer) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "REMEMBERED", 100)
    known = words_of(TOKENIZER)
    assert known is not None
    texts = [f"the fox {number} x{number} the" for number in range(2_000)]
    with ThreadPoolExecutor(4) as pool:  # whoever reads while it begins anew is right, too
        assert list(pool.map(known.spelled, texts)) == [TOKENIZER.encode(text).ids for text in texts]
    assert len(known._known) <= 100
    held = set(known._known)
    assert known.spelled("a" * 41) == TOKENIZER.encode("a" * 41).ids
    assert set(known._known) == held
