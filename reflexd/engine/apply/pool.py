"""Decides in which process an edit is merged: one of a few, started when they are needed, with a limit to its time.

The event loop only waits for pipes. A process does one task at a time; one that takes too long, or whose caller is
gone, is killed, and one that dies costs its task a second try on a fresh process. One stays warm.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import structlog
from msgspec import DecodeError, Struct

from reflexd.engine.apply.messages import (
    LENGTH_BYTES,
    Answer,
    Done,
    Edit,
    Failed,
    Proposal,
    Ready,
    Refused,
    decode_answer,
    framed,
)
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.lifeline import child_environment
from reflexd.errors import ApplyTimeout, RateLimited, ReflexError, Unavailable, WorkerDied
from reflexd.observability import APPLY_WAITING

BUFFER_BYTES = 1 << 20
START_SECONDS = 60.0
"""For imports that take a tenth of one, on a machine that is busy."""
IDLE_SECONDS = 60.0
DIED = "The processes that merge updates end before they answer: try again in a moment"

log = structlog.get_logger(__name__)


class PoolOptions(Struct, frozen=True, kw_only=True):
    """How many processes there may be, how many tasks at once, waiting ones among them, and seconds of each."""

    workers: int
    queue: int
    merge_seconds: float


class Worker:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._gone = False

    @classmethod
    async def started(cls) -> Worker:
        """Start a process and wait for its imports; raises Unavailable."""
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "reflexd.engine.apply.worker",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=BUFFER_BYTES,
                env=child_environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
                start_new_session=True,
            )
        except OSError as error:
            log.error("no apply process can be started", exc_info=error)
            raise Unavailable("No process that merges updates can be started: try again in a moment") from error
        worker = cls(process)
        try:
            async with asyncio.timeout(START_SECONDS):
                if not isinstance(await worker._answer(), Ready):
                    raise WorkerDied("said something else first")
        except (WorkerDied, TimeoutError) as error:
            await worker.kill()
            log.error("an apply process did not start", exc_info=error)
            raise Unavailable("A process that merges updates did not start: try again in a moment") from error
        except BaseException:
            await worker.kill()
            raise
        return worker

    @property
    def is_alive(self) -> bool:
        """Whether the process is there, as far as is known."""
        return not self._gone and self._process.returncode is None

    async def ask(self, task: Edit | Proposal) -> Answer:
        """Return the answer to a task; raises WorkerDied."""
        assert self._process.stdin is not None
        # A dead process is told by what it does not answer; uvloop's word for its closed pipe is a RuntimeError.
        with contextlib.suppress(ConnectionError, RuntimeError):
            for part in framed(task):
                self._process.stdin.write(part)
            await self._process.stdin.drain()
        return await self._answer()

    async def kill(self) -> None:
        """End the process, whatever it does, and wait until it is gone."""
        if self.is_alive:  # once: later its number may be another process's
            self._gone = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def _answer(self) -> Answer:
        assert self._process.stdout is not None
        try:
            head = await self._process.stdout.readexactly(LENGTH_BYTES)
            answer: Answer = decode_answer(await self._process.stdout.readexactly(int.from_bytes(head, "big")))
            return answer
        except (asyncio.IncompleteReadError, ConnectionError):
            raise WorkerDied("ended before its answer") from None
        except DecodeError:
            raise WorkerDied("spoke what is not its protocol") from None


class Pool:
    """The processes."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._turns = asyncio.Semaphore(options.workers)
        self._waiting = 0
        self._idle: list[Worker] = []
        self._busy: set[Worker] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        APPLY_WAITING.set_function(lambda: self._waiting)

    async def do(self, task: Edit | Proposal) -> Done:
        """Do a task; raises Refusal, ApplyTimeout, RateLimited, and Unavailable where no process lives to answer."""
        if self._waiting >= self._options.queue:
            raise RateLimited("Too many updates are being applied: try again in a moment")
        self._waiting += 1
        try:
            async with self._turns:
                answer = await self._ask(task)
        finally:
            self._waiting -= 1
        match answer:
            case Done():
                return answer
            case Refused():
                raise Refusal(answer.reason, answer.message, answer.line, answer.candidates)
            case Failed():
                log.error("an update was not applied", error=answer.error, where=answer.where)
        raise ReflexError

    async def stop(self) -> None:
        """End every process."""
        self._stopped = True
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        await asyncio.gather(*self._tasks, *(worker.kill() for worker in workers), return_exceptions=True)

    async def _ask(self, task: Edit | Proposal) -> Answer:
        for fresh in (False, True):
            worker = await self._take(fresh)
            self._busy.add(worker)
            answered = False
            try:
                async with asyncio.timeout(self._options.merge_seconds):
                    answer = await worker.ask(task)
                answered = True
                return answer
            except WorkerDied as death:
                log.warning("an apply process ended", why=str(death))
            except TimeoutError:
                raise ApplyTimeout from None
            finally:
                self._busy.discard(worker)
                if answered:
                    self._give_back(worker)
                else:  # in a task of its own: the caller may be cancelled meanwhile
                    self._start(self._replace(worker))
        raise Unavailable(DIED)

    async def _take(self, fresh: bool) -> Worker:
        while self._idle and not fresh:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            await worker.kill()  # it died while it stood by, which is no fault of this task
        if self._stopped:
            raise Unavailable
        return await Worker.started()

    def _give_back(self, worker: Worker) -> None:
        if self._stopped or len(self._idle) >= self._options.workers:
            self._start(worker.kill())
            return
        self._idle.append(worker)
        if len(self._idle) > 1:
            asyncio.get_running_loop().call_later(IDLE_SECONDS, self._trim)

    async def _replace(self, worker: Worker) -> None:
        """End a process, and start another where none stands by: the next task need not wait for it."""
        await worker.kill()
        if not (self._idle or self._stopped):
            with contextlib.suppress(Unavailable):  # which the next task is told
                self._give_back(await Worker.started())

    def _trim(self) -> None:
        """End one process that nobody has needed; the longest unused stand first."""
        if len(self._idle) > 1 and not self._stopped:
            self._start(self._idle.pop(0).kill())

    def _start(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
