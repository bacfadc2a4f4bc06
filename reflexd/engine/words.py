"""Decides which texts are spelled from memory, word by word: short plain ones, where a tokenizer's own rules allow it.

The same words return in text after text, and the tokenizer works each out anew: .09 ms for 64 tokens, and .21 ms
after a forward, which leaves the caches cold. Remembered, they take .01 and .04 ms. Whatever is not plain goes to the
tokenizer, and so does each new word, so that no id is ever decided here.
"""

from __future__ import annotations

import re
import threading
from itertools import chain

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

LONGEST = 2_000
"""Characters of a text that is spelled from memory: the interpreter is held meanwhile."""
REMEMBERED = 50_000
"""Words in memory, 20 MB at most; then it begins anew. Prose seldom has as many."""
LONGEST_WORD = 40
"""Characters of a word that is remembered."""
_WORD = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9 ]")
"""What BERT's rules make of printable ASCII: runs of letters and digits, and every other character by itself."""


class Words:
    """The token ids of words that were met before; safe to call from several threads."""

    def __init__(
        self, tokenizer: Tokenizer, around: tuple[list[int], list[int]], marks: frozenset[str], *, lower: bool
    ) -> None:
        """`around` are the ids before and after every text; `marks` are characters that may begin a special token."""
        self._tokenizer = tokenizer
        self._before, self._after = around
        self._marks = marks
        self._lower = lower
        self._known: dict[str, list[int]] = {}
        self._lock = threading.Lock()

    def spelled(self, text: str) -> list[int] | None:
        """Return the token ids of a text, special tokens included; None for one that is not plain."""
        if len(text) > LONGEST or not text.isascii():
            return None
        line = text.replace("\n", " ").replace("\t", " ").replace("\r", " ")
        if not line.isprintable() or any(mark in line for mark in self._marks):
            return None
        words = _WORD.findall(line.lower() if self._lower else line)
        try:
            return [*self._before, *chain.from_iterable(map(self._known.__getitem__, words)), *self._after]
        except KeyError:
            return [*self._before, *chain.from_iterable(self._learn(words)), *self._after]

    def _learn(self, words: list[str]) -> list[list[int]]:
        """Return the ids of each word, and remember them."""
        known = self._known
        new = [word for word in dict.fromkeys(words) if word not in known]
        # The batch call, for it releases the interpreter.
        made = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        found = dict(zip(new, (encoding.ids for encoding in made), strict=True))
        ids = [found[word] if word in found else known[word] for word in words]
        kept = {word: own for word, own in found.items() if len(word) <= LONGEST_WORD}
        with self._lock:
            if len(self._known) + len(kept) > REMEMBERED:
                self._known = kept  # whoever reads the old one goes on with it
            else:
                self._known.update(kept)
        return ids


def words_of(tokenizer: Tokenizer) -> Words | None:
    """Return a memory for a tokenizer's words; None where it does not split texts by BERT's rules.

    The tokenizer must neither truncate nor pad.
    """
    rules = tokenizer.normalizer
    if not isinstance(rules, BertNormalizer) or not rules.clean_text:
        return None
    if not isinstance(tokenizer.pre_tokenizer, BertPreTokenizer) or not isinstance(tokenizer.model, WordPiece):
        return None
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    marks = [next((c for c in content if c.isprintable() and not c.isalnum() and c != " "), "") for content in special]
    if not all(marks):  # one that looks like a word
        return None
    sample = tokenizer.encode("a")
    own = [number for number, special in enumerate(sample.special_tokens_mask) if not special]
    around = sample.ids[: own[0]], sample.ids[own[-1] + 1 :]
    return Words(tokenizer, around, frozenset(marks), lower=rules.lowercase)
