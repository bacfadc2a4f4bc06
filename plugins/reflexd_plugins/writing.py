"""Decides how a language model is asked for texts of a label: one text a call, after examples of how such lists look.

Asked for a list, a small model loops; asked as a chat, it answers as an assistant. So it continues a list: three topics
that have nothing to do with the request show what a list of users' messages is, a start of its own makes each text
another one, and a line ends it.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence

from reflexd import LLMAnswer, LLMRequest
from reflexd_plugins.label_words import Described

DEMONSTRATIONS = {
    "complaining that the train is late": (
        "my train is an hour late again",
        "why is the 8 o'clock train never on time",
    ),
    "asking for help with homework": ("can you help me with my essay", "i don't understand question 4 of my homework"),
    "ordering a pizza": ("i'd like a large pizza with mushrooms", "one margherita for delivery please"),
    "a printer that does not work": ("the printer keeps jamming, what now", "it says offline but the printer is on"),
    "praising a film": ("that film was wonderful, i cried at the end", "best movie i have seen in years"),
    "asking for a doctor's appointment": ("can i see a doctor on monday", "i need an appointment for my son"),
    "returning shoes that do not fit": ("the shoes are too small, how do i send them back", "i want my money back"),
    "asking whether a shop is open": ("are you open on sundays", "what time does the store close tonight"),
}
"""Topics, none of which stands in any data that is measured here."""
SHOWN = 3
STARTERS = (
    " how", " can you", " what", " i", " my", " please", " is", " when", " why", " could you",
    " i need", " do", " where", " tell me", " i want", " are", " would", " hey", " does", " i'd like",
)  # fmt: skip
SEEDS_SHOWN = 3
SEED_CHARS = 300
MAX_TOKENS = 40
TEMPERATURE = 0.8
FEWEST_WORDS, FEWEST_CHARS, MOST_CHARS = 2, 4, 400


class Ask:
    """The request for one text: its place in the batch, and the start that it is given."""

    def __init__(self, key: str, about: Described, seeds: Sequence[str], seed: int) -> None:
        """`seeds` are texts of the label that the user has given; `seed` makes the request reproducible."""
        chance = random.Random(f"{seed} {key}")  # noqa: S311 - variety, no secret
        self.key = key
        english = about.said.isascii()
        self.start = chance.choice(STARTERS) if english and not seeds and chance.random() < 0.5 else ""
        self._prompt = prompt(about, seeds, chance) + self.start
        self._seed = chance.randrange(2**31)

    def request(self) -> LLMRequest:
        """Return it as the LLM is asked."""
        body = {
            "prompt": self._prompt,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "seed": self._seed,
            "stop": ["\n"],
        }
        return LLMRequest(self.key, body)

    def text(self, answer: LLMAnswer) -> str | None:
        """Return the text that it has brought; None for one that did not end, or is no text."""
        try:
            choice = answer.body["choices"][0]
            written, ended = str(choice["text"]), choice["finish_reason"] == "stop"
        except (KeyError, IndexError, TypeError):  # refused, or babble
            return None
        text = " ".join((self.start + written).split()).strip("\"'`*")
        # By words where they are written apart, as few scripts do not.
        few = len(text) < FEWEST_CHARS or (text.isascii() and len(text.split()) < FEWEST_WORDS)
        return None if few or not ended or len(text) > MOST_CHARS or any(map(_is_control, text)) else text


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Co", "Cn")


def prompt(about: Described, seeds: Sequence[str], chance: random.Random) -> str:
    """Return a list that a text of the label would continue."""
    shown = "".join(
        f"Topic: {topic}\nMessages from users:\n" + "".join(f"- {text}\n" for text in chance.sample(texts, 2)) + "\n"
        for topic, texts in chance.sample(list(DEMONSTRATIONS.items()), SHOWN)
    )
    topic = f"{about.name}: {about.line}" if about.line and about.name not in about.line else about.said
    own = chance.sample(list(seeds), min(SEEDS_SHOWN, len(seeds)))
    lines = "".join(f"\n- {' '.join(text.split())[:SEED_CHARS]}" for text in own)
    return f"{shown}Topic: {topic}\nMessages from users:{lines}\n-"
