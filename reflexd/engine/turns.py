"""Decides whose piece of work a thread takes next: what somebody waits for before bulk, and within each, keys in turn.

A piece is at most one forward (and the reading of models that are not in memory), so whoever comes waits for the pieces
under way and for one of each other key, however much those have brought. Bulk gets every BULK_EVERY-th turn even where
others wait, so that it never stands still.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

BULK_EVERY = 16

Piece = Callable[[], None]


class Turns:
    """The pieces that wait; any thread may put one, and those that take them are woken one by one.

    The taker that began to wait last is woken first: its processor's caches hold the encoder still. Two that took turns
    on a lone caller's texts were 15 % slower (measured, 64 tokens).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompt: OrderedDict[str, deque[Piece]] = OrderedDict()
        self._bulk: OrderedDict[str, deque[Piece]] = OrderedDict()
        self._idle: list[threading.Lock] = []
        self._taken = 0
        self._closed = False

    def put(self, key: str, piece: Piece, *, bulk: bool = False) -> None:
        """Let a piece of work wait for its turn, among those of the same key in the order they came."""
        lane = self._bulk if bulk else self._prompt
        with self._lock:
            lane.setdefault(key, deque()).append(piece)
            woken = self._idle.pop() if self._idle else None
        if woken is not None:
            woken.release()

    def take(self, gate: threading.Lock) -> Piece | None:
        """Wait for a piece and return it; None after `close`. `gate` is the taker's own, and locked."""
        while True:
            with self._lock:
                if self._closed:
                    return None
                if self._prompt or self._bulk:
                    return self._next()
                self._idle.append(gate)
            gate.acquire()  # without the interpreter

    def close(self) -> None:
        """Let every taker end, whatever waits."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for gate in idle:
            gate.release()

    def _next(self) -> Piece:
        self._taken += 1
        first, second = self._prompt, self._bulk
        if self._taken % BULK_EVERY == 0:
            first, second = second, first
        lane = first or second
        key, pieces = next(iter(lane.items()))
        piece = pieces.popleft()
        if pieces:
            lane.move_to_end(key)
        else:
            del lane[key]
        return piece
