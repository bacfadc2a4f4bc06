"""Decides when the local LLM runs: started when a job needs it, watched and restarted, stopped when it is idle.

It keeps its address and its key over a restart, so that whoever asks it meanwhile only waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx2
import structlog

from reflexd.config import Llm
from reflexd.engine.device import Device
from reflexd.engine.llm.launch import Launch, Model
from reflexd.errors import LanguageModelRefused, LLMFailed
from reflexd.schemas.worker import LLMAccess

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 30.0
TRIES = 3
"""Starts in a row that may fail before whoever waits is told so."""
LOOK_SECONDS = 0.3
HEALTH_EVERY_SECONDS = 10.0
HEALTH_SECONDS = 30.0
GRACE_SECONDS = 3.0
LOG_TAIL_BYTES = 4_096

State = Literal["stopped", "starting", "running", "failed"]

log = structlog.get_logger(__name__)


class Keeper:
    """Looks after one server; `lease` holds it up."""

    def __init__(self, options: Llm, find: Callable[[], Model], log_file: Path, device: Device) -> None:
        """`find` returns what is to be started now; it raises LLMFailed with what is to be done where nothing can be.

        What the server prints goes to `log_file`.
        """
        self._options = options
        self._find = find
        self._log_file = log_file
        self._device = device
        self._turn = asyncio.Lock()
        self._leases = self._jobs = self._held = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._state: State = "stopped"
        self._why: str | None = None
        self._model: Model | None = None
        self._launch: Launch | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._port, self._key = 0, ""
        self._started_at = self._used_at = 0.0
        self._restarts = 0

    @asynccontextmanager
    async def lease(self, *, brief: bool = False) -> AsyncIterator[LLMAccess]:
        """Hold the LLM up, and start it where it does not run; raises LLMFailed where it cannot be started.

        `brief`: for an answer and not for a job, which may have it as long as it lasts.
        """
        self._leases += 1
        held = False
        try:
            async with self._turn:
                if not (self._jobs or self._device_is_free()):
                    # Training has waited longer: answers that overlap would keep it waiting for ever.
                    await self._quiet.wait()
                    await self._end()
                await self._ensured()
                assert self._model is not None
                assert self._launch is not None
                access = LLMAccess(
                    url=f"http://127.0.0.1:{self._port}/v1",
                    key=self._key,
                    model=self._model.name,
                    parameters=self._model.parameters,
                    concurrency=self._launch.concurrency,
                    seeds=self._launch.seeds,
                    answer_seconds=self._options.answer_seconds,
                    patience_seconds=TRIES * self._options.start_seconds,
                )
                held = True
                self._count(1, brief)
            yield access
        finally:
            if held:
                self._count(-1, brief)
            self._leases -= 1
            self._used_at = time.monotonic()

    def _count(self, change: int, brief: bool) -> None:
        self._held += change
        self._jobs += 0 if brief else change
        self._quiet.clear() if self._held else self._quiet.set()

    async def start(self) -> None:
        """Start it, and leave it to its idle time; raises LanguageModelRefused."""
        try:
            async with self.lease():
                pass
        except LLMFailed as failure:
            raise LanguageModelRefused(failure.why) from failure

    async def stop(self) -> None:
        """End it; the next job that needs it starts it again. Raises LanguageModelRefused while a job has it."""
        if self._leases:
            raise LanguageModelRefused("a job makes its rows with it: cancel or pause the job first")
        async with self._turn:
            await self._end()

    async def close(self) -> None:
        """End it whoever has it, for the daemon stops; a start that is under way is given up."""
        if self._starting is not None:
            self._starting.cancel()
        async with self._turn:
            await self._end()

    async def status(self) -> dict[str, Any]:
        """Return what the operator is to know."""
        running = self._state == "running"
        return {
            "state": self._state,
            "why": self._why,
            "model": self._model.name if self._model is not None else None,
            "engine": self._launch.engine if self._launch is not None else None,
            "pid": self._process.pid if self._process is not None else None,
            "port": self._port if running else None,
            "jobs": self._leases,
            "running_seconds": int(time.monotonic() - self._started_at) if running else None,
            "restarts": self._restarts,
        }

    def _device_is_free(self) -> bool:
        return not self._device.wanted("training")

    async def _ensured(self) -> None:
        """Start it where it does not run; raises LLMFailed, also where the daemon stops meanwhile."""
        if self._watching is not None and not self._watching.done():
            return
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start())
            self._starting.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if self._starting.cancelled():
                raise LLMFailed("the daemon stops") from None
            # Whoever asked for it is gone. What has begun goes on, for one who asks again would wait as long.
            if self._process is None:
                await self._give_up_start()
            raise

    async def _give_up_start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
            self._starting = None

    async def _start(self) -> None:
        self._model = self._find()
        await self._device.acquire("llm")
        self._port, self._key = _free_port(), secrets.token_urlsafe(32)
        self._launch = self._model.launch(self._port, self._key)
        try:
            await self._start_patiently(self._launch)
        except BaseException:
            await self._kill()
            self._device.release()
            raise
        self._watching = asyncio.create_task(self._watch())

    async def _start_patiently(self, launch: Launch) -> None:
        """Start it, a few times where that fails."""
        pause = FIRST_PAUSE_SECONDS
        for left in reversed(range(TRIES)):
            self._state, self._why = "starting", None
            why = await self._start_once(launch)
            if why is None:
                self._state = "running"
                self._started_at = self._used_at = time.monotonic()
                log.info("llm running", engine=launch.engine, model=self._model and self._model.name)
                return
            await self._kill()
            self._state, self._why = "failed", why
            log.warning("llm did not start", why=why, tries_left=left)
            if left:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_SECONDS)
        raise LLMFailed(f"it does not start: {self._why}; {self._log_file} says more")

    async def _start_once(self, launch: Launch) -> str | None:
        """Start the process and wait until it answers; return why it does not."""
        self._log_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._log_file.open("wb") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *launch.command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=launch.environment,
                    start_new_session=True,
                )
            except OSError as error:
                return f"its program cannot be run: {error.strerror or error}"
        deadline = time.monotonic() + self._options.start_seconds
        while time.monotonic() < deadline:
            if self._process.returncode is not None:
                return f"it ended with status {self._process.returncode}: {self._last_words()}"
            if await self._healthy(LOOK_SECONDS * 10):
                return await self._first_answer(deadline)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), LOOK_SECONDS)
        return f"it did not answer within {self._options.start_seconds:g} seconds"

    async def _first_answer(self, deadline: float) -> str | None:
        """Have it answer once, which takes it half a minute; return why it does not."""
        assert self._model is not None
        body = {"model": self._model.name, "prompt": "A", "max_tokens": 1}
        headers = {"authorization": f"Bearer {self._key}"}
        left = max(1.0, deadline - time.monotonic())
        try:
            async with asyncio.timeout(left), httpx2.AsyncClient(trust_env=False, timeout=left) as http:
                answer = await http.post(f"http://127.0.0.1:{self._port}/v1/completions", json=body, headers=headers)
        except (httpx2.HTTPError, TimeoutError) as error:
            return f"it did not answer a first request ({type(error).__name__}): {self._last_words()}"
        return None if answer.status_code == 200 else f"it answered a first request with {answer.status_code}"

    async def _watch(self) -> None:
        """Stop it when it is idle or training waits for its device; start it again when it dies or hangs."""
        try:
            await self._look_after()
        except Exception as error:  # its log file cannot be opened, say: nobody must wait for the device for ever
            log.exception("llm is looked after no more")
            self._why = f"it is looked after no more: {type(error).__name__}"
            await self._release(failed=True)

    async def _look_after(self) -> None:
        assert self._launch is not None
        looked_at = time.monotonic()
        while True:
            assert self._process is not None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), LOOK_SECONDS)
            now = time.monotonic()
            why = None
            if self._process.returncode is not None:
                why = f"it ended with status {self._process.returncode}: {self._last_words()}"
            elif not self._leases and (
                now - self._used_at >= self._options.idle_seconds or self._device.wanted("training")
            ):
                async with self._turn:
                    if not self._leases:
                        log.info("llm stopped: nobody needs it")
                        await self._release()
                        return
            elif now - looked_at >= HEALTH_EVERY_SECONDS:
                looked_at = now
                if not await self._healthy(HEALTH_SECONDS):
                    why = f"it did not say that it is well within {HEALTH_SECONDS:g} seconds"
            if why is None:
                continue
            log.warning("llm is started again", why=why)
            self._restarts += 1
            await self._kill()
            if not self._leases:
                await self._release()
                return
            try:
                await self._start_patiently(self._launch)
            except LLMFailed:  # those who ask it lose their patience, and say so
                await self._release(failed=True)
                return

    async def _healthy(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds), httpx2.AsyncClient(trust_env=False, timeout=seconds) as http:
                return (await http.get(f"http://127.0.0.1:{self._port}/health")).status_code == 200
        except (httpx2.HTTPError, TimeoutError):
            return False

    def _last_words(self) -> str:
        try:
            with self._log_file.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").strip().splitlines()
        except OSError:
            return "it left no word"
        return lines[-1].strip()[:300] if lines else "it left no word"

    async def _end(self) -> None:
        await self._give_up_start()
        if self._watching is not None:
            watching, self._watching = self._watching, None
            if not watching.done():
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await self._release()
        if self._state != "failed":
            self._state = "stopped"

    async def _release(self, *, failed: bool = False) -> None:
        await self._kill()
        self._device.release()
        self._state = "failed" if failed else "stopped"

    async def _kill(self) -> None:
        """End the process and all that it started, and wait until it is gone."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # those of its children that are left, too
        await process.wait()
        self._process = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
