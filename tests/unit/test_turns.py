"""Shows whose work is done next: keys in turn, bulk last but never not at all, the warmest thread first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from reflexd.engine.turns import BULK_EVERY, Turns


def locked() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


class Recorder:
    """Pieces of work that write down that they were done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def piece(self, name: str) -> Callable[[], None]:
        return lambda: self.done.append(name)


def take_all(turns: Turns, count: int) -> None:
    gate = locked()
    for _ in range(count):
        piece = turns.take(gate)
        assert piece is not None
        piece()


def test_keys_take_turns_however_much_each_has_brought() -> None:
    turns, said = Turns(), Recorder()
    for number in range(6):
        turns.put("a", said.piece(f"a{number}"))
    for number in range(2):
        turns.put("b", said.piece(f"b{number}"))
    turns.put("c", said.piece("c0"))
    take_all(turns, 9)
    assert said.done == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_bulk_waits_and_still_gets_its_share() -> None:
    turns, said = Turns(), Recorder()
    for number in range(2 * BULK_EVERY):
        turns.put("batch", said.piece("bulk"), bulk=True)
        turns.put(f"key {number}", said.piece("prompt"))
    take_all(turns, 2 * BULK_EVERY)
    assert said.done.count("bulk") == 2
    assert said.done.index("bulk") == BULK_EVERY - 1
    take_all(turns, 2 * BULK_EVERY)
    assert said.done[-1] == "bulk"
    assert said.done.count("prompt") == 2 * BULK_EVERY


def test_the_taker_that_began_to_wait_last_is_woken_first_and_all_end() -> None:
    turns, woken, ended = Turns(), [], []

    def wait(name: str) -> None:
        gate = locked()
        while (piece := turns.take(gate)) is not None:
            woken.append(name)
            piece()
        ended.append(name)

    threads = {name: threading.Thread(target=wait, args=(name,)) for name in ("first", "second")}
    for number, thread in enumerate(threads.values(), 1):
        thread.start()
        while len(turns._idle) < number:
            time.sleep(0.001)
    for _ in range(5):
        done = threading.Event()
        turns.put("a", done.set)
        assert done.wait(60)
        while len(turns._idle) < 2:
            time.sleep(0.001)
    assert woken == ["second"] * 5
    turns.put("a", lambda: None)
    turns.close()
    for thread in threads.values():
        thread.join(60)
        assert not thread.is_alive()
    assert sorted(ended) == ["first", "second"]
