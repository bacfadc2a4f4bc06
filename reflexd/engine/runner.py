"""Decides how stages run on this machine: in child processes of the daemon, one of which stands by warm.

A child that ended a stage well serves the next one; a child whose run was cut short, or that failed, is killed. There
are never more children than slots, and what a burst of jobs leaves idle is ended after a minute. Beside a job another
child stands by only once the job has lasted a while: its imports cost more than half of what a small job does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import msgspec

from reflexd.engine.lifeline import child_environment
from reflexd.errors import ExecutorUnavailable, WorkerDied
from reflexd.hookspecs import Executor, ExecutorFactory, ExecutorOptions, hookimpl
from reflexd.registry.runs import WORKER_LOG
from reflexd.schemas.worker import Event, Failed, Prepared, Ready, RunSpec, Trained, decode_event, encode_line

LINE_LIMIT = 16 << 20
STDERR_KEPT = 16_384
IDLE_SECONDS = 60.0
BESIDE_SECONDS = 30.0
"""How long a job runs before another child is started to stand by; one that a second job needs is started at once."""
GRACE_SECONDS = 0.2
RETRY_SECONDS = 10.0


class Child:
    """One training process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.runs = 0
        self.ready = False
        self._gone = False
        self._stderr = bytearray()
        self._reader = asyncio.create_task(self._keep_stderr())

    @classmethod
    async def spawn(cls, options: ExecutorOptions) -> Child:
        """Start a process; it is ready once it has imported its libraries (about 3 s)."""
        try:
            process = await _start(options)
        except OSError as error:
            raise ExecutorUnavailable(f"a training process cannot be started: {error.strerror or error}") from error
        return cls(process)

    async def line(self) -> Event:
        """Return the next event; raises WorkerDied at the end of the process or of sense."""
        assert self.process.stdout is not None
        try:
            line = await self.process.stdout.readline()
            if line.endswith(b"\n"):
                event: Event = decode_event(line)
                return event
        except (ValueError, msgspec.DecodeError):
            raise WorkerDied("spoke what is not its protocol") from None
        raise WorkerDied(_end_of(await self.process.wait()))

    async def until_ready(self) -> None:
        """Wait for the imports; raises ExecutorUnavailable when they fail."""
        try:
            while not self.ready:
                self.ready = isinstance(await self.line(), Ready)
        except WorkerDied as death:
            last = self._stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise ExecutorUnavailable(": ".join([f"a training process {death} before it was ready", *last])) from death

    async def send(self, spec: RunSpec) -> None:
        """Hand a stage over."""
        assert self.process.stdin is not None
        self.process.stdin.write(encode_line(spec))
        with contextlib.suppress(ConnectionError):  # a dead process is told by line()
            await self.process.stdin.drain()

    def log_to(self, run_dir: Path) -> None:
        """Leave what the process printed in the job's run directory: it may hold text, so it is in no log."""
        if self._stderr and run_dir.is_dir():
            with (run_dir / WORKER_LOG).open("ab") as file:
                file.write(self._stderr)

    async def cut_short(self) -> None:
        """Tell the process that its run is over, and end it a moment later whether it has listened or not."""
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            self.process.terminate()
            async with asyncio.timeout(GRACE_SECONDS):
                await self.process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the process and whatever it started, and wait until it is gone."""
        if not self._gone:  # once: later its number may be another process's
            self._gone = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        self._reader.cancel()

    async def _keep_stderr(self) -> None:
        assert self.process.stderr is not None
        while chunk := await self.process.stderr.read(4096):
            self._stderr += chunk
            del self._stderr[:-STDERR_KEPT]


class LocalExecutor:
    """Runs each stage in a child process; keeps `warm` processes standing by."""

    def __init__(self, options: ExecutorOptions) -> None:
        self._options = options
        self._idle: list[Child] = []
        self._busy: set[Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._warming: asyncio.Task[None] | None = None
        self._needed = asyncio.Event()
        """A job waits for the child that is being warmed, or none runs whose end could spare it."""
        self._waits = False
        """Whether what is warming has not begun yet, as a job may be over soon."""
        self._stopped = False

    async def start(self) -> None:
        """Begin to warm the standing-by processes, without waiting for them."""
        self._top_up()

    async def run(self, spec: RunSpec) -> AsyncGenerator[Event, None]:
        """Run one stage; see hookspecs.Executor."""
        child = await self._take()
        self._busy.add(child)
        self._top_up()
        ended_well = False
        try:
            await child.until_ready()
            await child.send(spec)
            while True:
                event = await child.line()
                ended_well = isinstance(event, Prepared | Trained) or (isinstance(event, Failed) and event.reusable)
                if ended_well:
                    await self._give_back(child)
                yield event
                if isinstance(event, Prepared | Trained | Failed):
                    return
        finally:
            if not ended_well:
                # Shielded: the caller is often being cancelled, and the process must be gone before its files are.
                await asyncio.shield(asyncio.ensure_future(self._end(child, Path(spec.run_dir))))

    async def stop(self) -> None:
        """End every process."""
        self._stopped = True
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        children = [*self._idle, *self._busy]
        self._idle.clear()
        await asyncio.gather(*self._ending, *(child.kill() for child in children))

    async def _take(self) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.process.returncode is None:
                return child
            await child.kill()  # it died while it stood by, which is no fault of this job
        if self._warming is not None and not self._warming.done():
            self._needed.set()
            await asyncio.wait({self._warming})  # sooner ready than a second one beside it
            if self._idle:
                return await self._take()
        return await Child.spawn(self._options)

    async def _give_back(self, child: Child) -> None:
        child.runs += 1
        self._busy.discard(child)
        if child.runs >= self._options.runs_per_child or self._stopped:
            await child.kill()
            self._top_up()
            return
        self._idle.append(child)
        if self._waits and self._warming is not None and len(self._idle) >= self._options.warm:
            self._warming.cancel()  # how long the next job lasts is counted from its own begin
        if len(self._idle) > self._options.warm:
            asyncio.get_running_loop().call_later(IDLE_SECONDS, self._trim)

    async def _end(self, child: Child, run_dir: Path) -> None:
        await child.cut_short()
        self._busy.discard(child)
        child.log_to(run_dir)
        self._top_up()

    def _trim(self) -> None:
        """End one child that nobody has needed; the longest unused stand first."""
        if len(self._idle) > self._options.warm and not self._stopped:
            task = asyncio.create_task(self._idle.pop(0).kill())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _top_up(self) -> None:
        if self._stopped:
            return
        if self._warming is None or self._warming.done():
            self._needed.clear()
            self._warming = asyncio.create_task(self._warm())
        if not self._busy:
            self._needed.set()

    async def _warm(self) -> None:
        self._waits = True
        try:
            async with asyncio.timeout(BESIDE_SECONDS):
                await self._needed.wait()
        except TimeoutError:
            pass
        finally:
            self._waits = False
        while len(self._idle) < self._options.warm and len(self._idle) + len(self._busy) < self._options.slots:
            try:
                child = await Child.spawn(self._options)
            except ExecutorUnavailable:
                break
            try:
                await child.until_ready()
            except ExecutorUnavailable:
                await child.kill()
                break
            except BaseException:
                await child.kill()
                raise
            self._idle.append(child)
        else:
            return
        # A broken installation must not fork in a circle; a job that comes meanwhile tells the reason.
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self._top_up)


async def _start(options: ExecutorOptions) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "reflexd.engine.worker",
        str(options.nice),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=LINE_LIMIT,
        env=_environment(options.threads),
        start_new_session=True,
    )


def _end_of(status: int) -> str:
    """Say how a process ended, from its return code."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"was ended by signal {-status}"


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of a training process: what every child's is, and no spinning threads."""
    return child_environment(
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS=str(threads),
        OPENBLAS_NUM_THREADS=str(threads),
        OMP_WAIT_POLICY="PASSIVE",
        GOMP_SPINCOUNT="0",
        PYTHONUNBUFFERED="1",
    )


@hookimpl
def register_executors(register: Callable[[str, ExecutorFactory], None]) -> None:
    """Offer `local`."""

    def build(options: ExecutorOptions) -> Executor:
        return LocalExecutor(options)

    register("local", build)
