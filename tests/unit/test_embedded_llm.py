"""Shows the parts of the embedded language model: kept beginnings, the cache of rows, the dice, and tokens as text."""

from __future__ import annotations

from random import Random

import pytest
import torch
from tokenizers import Tokenizer, processors

from reflexd.engine.llm.embedded.prefixes import SHORTEST, Prefix, Prefixes, Tokens, shared_lengths
from reflexd.engine.llm.embedded.row import Row, Vocabulary
from reflexd.engine.llm.embedded.sampling import choose
from reflexd.engine.llm.embedded.slab import Slab
from reflexd.engine.llm.embedded.wire import Wish
from tests.checkpoints import smollm2

END = 2


def wish(**given: object) -> Wish:
    base = {"max_tokens": 64, "temperature": 0.0, "top_p": 1.0, "seed": None, "stop": (), "echo": False, "logprobs": 0}
    return Wish(**{**base, **given})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(smollm2() / "tokenizer.json"))


# --- beginnings -----------------------------------------------------------------------------------------------------


def made(tokens: Tokens) -> Prefix:
    nothing = torch.zeros(1, 1, len(tokens), 1)
    return Prefix(tokens, [nothing], [nothing], [], [], torch.zeros(1))


def behind(label: int, count: int, own: int = 5) -> list[Tokens]:
    """Prompts of one label: 20 tokens that all labels share, 40 of its own, then a text."""
    dice = Random(label)
    head = (*range(20), *(1000 + label for _ in range(40)))
    return [(*head, *(dice.randrange(100, 900) for _ in range(own))) for _ in range(count)]


def test_each_label_has_its_own_beginning_and_what_is_rare_only_the_common_one() -> None:
    assert shared_lengths([*behind(1, 8), *behind(2, 8)]) == [60] * 16
    assert shared_lengths([*behind(1, 8), *behind(2, 1)]) == [60] * 8 + [20]
    few = [prompt for label in range(10) for prompt in behind(label, 2)]
    assert shared_lengths(few) == [20] * 20
    assert shared_lengths(behind(1, 3)) == [0] * 3
    assert shared_lengths([(1, 2, 3, number) for number in range(50)]) == [0] * 50, "shorter than is worth it"
    assert shared_lengths([]) == []


def test_a_beginning_is_read_once_and_leaves_something_to_read() -> None:
    read: list[Tokens] = []

    def reading(tokens: Tokens) -> Prefix:
        read.append(tokens)
        return made(tokens)

    kept = Prefixes(1 << 20)
    for number in range(12):  # one label after the other, a text at a time
        for label in (1, 2):
            kept.of([behind(label, 12)[number]], reading)
    assert sorted({len(tokens) for tokens in read}) in ([60], [20, 60])
    assert len(read) == len(set(read))
    assert kept.longest(behind(1, 1)[0]) == behind(1, 1)[0][:60]
    alike = [tuple(range(5000, 5030))] * 8
    found = kept.of(alike, reading)
    assert {len(prefix.tokens) for prefix in found if prefix} == {28}
    assert kept.longest(tuple(range(5000, 5029))) == ()


def test_what_was_not_used_for_longest_is_forgotten_first() -> None:
    kept = Prefixes(made(tuple(range(60))).nbytes * 2)
    for label in (1, 2, 1, 3):
        kept.of(behind(label, 8), made)
    assert [len(kept.longest(behind(label, 1)[0])) for label in (1, 2, 3)] == [60, 0, 60]
    assert SHORTEST <= 20


# --- the cache of rows ----------------------------------------------------------------------------------------------


def test_rows_that_come_and_go_find_their_keys_and_values() -> None:
    dice, slab, expected = Random(7), Slab(4), list[torch.Tensor]()
    for step in range(600):
        if (len(expected) < 4 and dice.random() < 0.05) or not expected:
            read = torch.rand(2, dice.choice([1, 9, 40, 300]), 3)
            cut = dice.randrange(read.shape[1] + 1)
            pieces = [read[:, :cut], read[:, cut:]]
            slab.join([pieces, pieces], [pieces, [-piece for piece in pieces]])
            expected.append(read)
        cache, mask = slab.cache(), slab.mask()
        assert mask.sum(1).tolist() == [row.shape[1] + 1 for row in expected]
        new = torch.rand(len(expected), 2, 1, 3)
        keys, values = cache.update(new, new, 0)
        torch.testing.assert_close(keys, values)
        keys, values = cache.update(new, -new, 1)
        torch.testing.assert_close(keys, -values)
        assert keys.shape[2] == mask.shape[1]
        slab.stepped()
        expected = [torch.cat([row, new[at]], 1) for at, row in enumerate(expected)]
        for at, row in enumerate(expected):
            torch.testing.assert_close(keys[at][:, mask[at]], row)
        if step % 37 == 36:
            at = dice.randrange(len(expected))
            slab.leave(at)
            last = expected.pop()
            if at < len(expected):
                expected[at] = last


# --- the dice -------------------------------------------------------------------------------------------------------


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    shares = torch.tensor([0.1, 0.6, 0.05, 0.25])
    logits = shares.log().repeat(4000, 1)
    dice = [Random(seed) for seed in range(4000)]

    def drawn(**given: float) -> list[float]:
        tokens = choose(logits, [wish(**{"temperature": 1.0, **given})] * 4000, dice)
        return [tokens.count(token) / 4000 for token in range(4)]

    assert drawn() == pytest.approx(shares.tolist(), abs=0.03)
    cooler = shares**2 / (shares**2).sum()
    assert drawn(temperature=0.5) == pytest.approx(cooler.tolist(), abs=0.03)
    assert drawn(top_p=0.8) == pytest.approx([0, 0.6 / 0.85, 0, 0.25 / 0.85], abs=0.03)
    assert drawn(top_p=0.0) == [0, 1, 0, 0]
    assert drawn(temperature=0.0) == [0, 1, 0, 0]


def test_a_wide_vocabulary_is_searched_as_far_as_top_p_reaches() -> None:
    logits = torch.zeros(1, 5000)
    found = {choose(logits, [wish(temperature=1.0, top_p=0.9)], [Random(seed)])[0] for seed in range(300)}
    assert len(found) > 250


def test_a_row_draws_alone_what_it_draws_beside_others() -> None:
    torch.manual_seed(0)
    logits = torch.randn(8, 3000)
    wishes = [wish(temperature=0.5 + at / 8, top_p=1.0 if at % 2 else 0.9) for at in range(8)]
    together = choose(logits, wishes, [Random(at) for at in range(8)])
    assert together == [choose(logits[at : at + 1], [wishes[at]], [Random(at)])[0] for at in range(8)]


# --- tokens as text -------------------------------------------------------------------------------------------------


def test_a_prompt_is_spelled_whole_whatever_its_tokenizer_adds(tokenizer: Tokenizer) -> None:
    text = "Grüße, 😀 日本! <|im_start|>user"
    words = Vocabulary(tokenizer, frozenset({END}))
    assert "".join(words.spell(text, words.encode(text))) == text
    adding = Tokenizer.from_str(tokenizer.to_str())
    adding.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A <|im_end|>", None, [("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    words = Vocabulary(adding, frozenset({END}))
    tokens = words.encode("Hello 😀 you")
    assert (tokens[0], tokens[-1]) == (1, 2)
    pieces = words.spell("Hello 😀 you", tokens)
    assert len(pieces) == len(tokens)
    assert "".join(pieces) == "Hello 😀 you"
    assert (pieces[0], pieces[1], pieces[-2], pieces[-1]) == ("", "Hello", " you", "")


def test_an_answer_is_text_up_to_its_end(tokenizer: Tokenizer) -> None:
    words = Vocabulary(tokenizer, frozenset({END}))

    def say(text: str, **given: object) -> Row:
        row = Row("Say:", words.encode("Say:"), wish(**given), words)
        for token in (*tokenizer.encode(text).ids, END):
            if row.say(token, -1.0, {token: -1.0}):
                return row
        raise AssertionError("it did not end")

    done = say(" wörld 😀 日本").done.result(0)
    assert (done.text, done.finish_reason) == (" wörld 😀 日本", "stop")
    assert "".join(token.text for token in done.scores) == done.text
    assert done.completion_tokens == len(done.scores) + 1
    half = tokenizer.encode(" wörld 😀").ids
    cut = say(" wörld 😀", max_tokens=len(half) - 1).done.result(0)
    assert cut.finish_reason == "length"
    assert " wörld 😀".startswith(cut.text)
    assert "\ufffd" not in cut.text
    stopped = say(" one two three four", stop=("wo th", "four")).done.result(0)
    assert (stopped.text, stopped.finish_reason) == (" one t", "stop")
    assert stopped.completion_tokens == 3
    row = Row("Say:", words.encode("Say:"), wish(), words)
    row.done.cancel()
    assert row.gone
    row.finish_unsaid()
    row.fail(ValueError("nobody waits"))
