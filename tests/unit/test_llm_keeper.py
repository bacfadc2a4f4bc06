"""Shows that the LLM runs while it is needed, is started again when it dies or hangs, and leaves nothing behind.

Its server is a fake that breaks on command (llm_server.py); the processes and signals are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from reflexd.config import Llm
from reflexd.engine.device import Device
from reflexd.engine.llm import keeper as keeping
from reflexd.engine.llm.keeper import Keeper
from reflexd.engine.llm.launch import SITE, Launch, Model
from reflexd.errors import LanguageModelRefused, LLMFailed
from reflexd.schemas.worker import LLMAccess
from tests.daemons import is_alive

pytestmark = pytest.mark.anyio
SERVER = Path(__file__).with_name("llm_server.py")


def model(folder: Path) -> Model:
    def launch(port: int, key: str) -> Launch:
        enter = [sys.executable, "-m", "reflexd.engine.llm.enter", "0", str(os.getpid())]
        return Launch(
            engine="fake",
            command=[*enter, sys.executable, str(SERVER), str(port), str(folder)],
            environment={**os.environ, "KEY": key, "PYTHONPATH": os.pathsep.join([str(SITE), *sys.path[1:]])},
            concurrency=2,
        )

    return Model(name="m", parameters=5, launch=launch)


@pytest.fixture
async def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    made: list[Keeper] = []

    def keeper(device: Device | None = None, **options: float) -> Keeper:
        given = Llm(**{"start_seconds": 20.0, "idle_seconds": 600.0, **options})  # type: ignore[arg-type]
        find = lambda: model(tmp_path)  # noqa: E731
        made.append(Keeper(given, find, tmp_path / "server.log", device or Device(exclusive=False)))
        return made[-1]

    yield keeper
    for one in made:
        await one.close()


Make = Callable[..., Keeper]


def pids(folder: Path) -> list[list[int]]:
    path = folder / "pids"
    return [[int(pid) for pid in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


async def ask(access: LLMAccess) -> int:
    async with httpx2.AsyncClient(trust_env=False) as http:
        headers = {"authorization": f"Bearer {access.key}"}
        answer = await http.post(f"{access.url}/completions", json={"prompt": "A"}, headers=headers)
    return int(answer.json()["pid"])


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.05)


async def state(keeper: Keeper) -> str:
    return str((await keeper.status())["state"])


async def test_it_runs_from_the_first_lease_until_it_is_idle(make: Make, tmp_path: Path) -> None:
    keeper = make(idle_seconds=0.5)
    assert await state(keeper) == "stopped"
    async with keeper.lease() as first, keeper.lease() as second:
        assert first == second
        assert (first.model, first.parameters, first.concurrency) == ("m", 5, 2)
        assert await ask(first) == pids(tmp_path)[0][0]
        await asyncio.sleep(1.0)
        assert await state(keeper) == "running", "idle time begins when nobody needs it"
    await until(lambda: not any(is_alive(pid) for pid in pids(tmp_path)[0]))
    await until(lambda: keeper._watching is None or keeper._watching.done())
    assert await state(keeper) == "stopped"
    async with keeper.lease() as again:
        assert (again.url, again.key) != (first.url, first.key)
        assert await ask(again) == pids(tmp_path)[1][0]


async def test_one_that_dies_is_started_again_where_it_was(make: Make, tmp_path: Path) -> None:
    keeper = make()
    async with keeper.lease() as access:
        (server, child), *_ = pids(tmp_path)
        os.kill(server, signal.SIGKILL)
        await until(lambda: len(pids(tmp_path)) == 2)
        assert not is_alive(child), "what it had started goes with it"
        async with asyncio.timeout(20):
            while await state(keeper) != "running":
                await asyncio.sleep(0.05)
        assert await ask(access) == pids(tmp_path)[1][0]
        assert (await keeper.status())["restarts"] == 1


async def test_one_that_hangs_is_started_again(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "HEALTH_SECONDS", 0.5)
    monkeypatch.setattr(keeping, "HEALTH_EVERY_SECONDS", 0.1)
    async with make().lease() as access:
        (tmp_path / "deaf").touch()
        await until(lambda: not is_alive(pids(tmp_path)[0][0]))
        (tmp_path / "deaf").unlink()
        await until(lambda: len(pids(tmp_path)) >= 2)
        async with asyncio.timeout(20):
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    assert await ask(access) in {server for server, _ in pids(tmp_path)[1:]}
                    break
                await asyncio.sleep(0.1)


async def test_one_that_does_not_start_is_told_with_its_last_words(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "FIRST_PAUSE_SECONDS", 0.05)
    (tmp_path / "broken").touch()
    keeper = make()
    with pytest.raises(LLMFailed) as caught:
        async with keeper.lease():
            pass
    assert "status 1: no memory for it" in caught.value.why
    assert "memory" not in caught.value.message, "a job's owner is told no more than that"
    assert "memory" in (await keeper.status())["why"]
    with pytest.raises(LanguageModelRefused, match="no memory for it"):
        await keeper.start()
    (tmp_path / "broken").unlink()
    await keeper.start()
    assert await state(keeper) == "running"


async def test_it_makes_room_for_training_as_soon_as_nobody_needs_it(make: Make, tmp_path: Path) -> None:
    device = Device(exclusive=True)
    keeper = make(device)
    async with device.using("training"):
        starting = asyncio.create_task(keeper.start())
        await asyncio.sleep(0.3)
        assert pids(tmp_path) == [], "it waits for the device"
    await starting
    async with keeper.lease() as access:
        training = asyncio.create_task(device.acquire("training"))
        await asyncio.sleep(0.5)
        assert not training.done()
        await ask(access)
    await asyncio.wait_for(training, 20)
    assert not is_alive(pids(tmp_path)[0][0])
    device.release()


async def test_answers_that_overlap_make_room_for_training(make: Make) -> None:
    device = Device(exclusive=True)
    keeper = make(device)
    told: list[str] = []

    async def answer(name: str, hold: asyncio.Event) -> None:
        async with keeper.lease(brief=True):
            told.append(name)
            await hold.wait()

    first, second = asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(answer("one", first))
    await until(lambda: told == ["one"])
    training = asyncio.create_task(device.acquire("training"))
    await asyncio.sleep(0.1)
    two = asyncio.create_task(answer("two", second))
    await asyncio.sleep(0.3)
    assert told == ["one"], "the second waits for the training that came before it"
    first.set()
    await asyncio.wait_for(training, 20)
    await asyncio.sleep(0.3)
    assert told == ["one"]
    device.release()
    await until(lambda: told == ["one", "two"])
    second.set()
    await asyncio.gather(one, two)


async def test_an_answer_beside_a_job_does_not_wait_for_training(make: Make) -> None:
    device = Device(exclusive=True)
    keeper = make(device)
    async with keeper.lease():
        training = asyncio.create_task(device.acquire("training"))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(5), keeper.lease(brief=True):
            assert not training.done()
    await asyncio.wait_for(training, 20)
    device.release()


async def test_a_start_goes_on_when_whoever_asked_for_it_has_gone(make: Make, tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    keeper = make()
    for _ in range(3):
        await ask_and_go(keeper, tmp_path)
    async with keeper.lease(brief=True) as access:
        assert await ask(access) == pids(tmp_path)[0][0]
    assert len(pids(tmp_path)) == 1


async def test_a_start_that_nobody_waits_for_is_ended_by_a_stop(make: Make, tmp_path: Path) -> None:
    (tmp_path / "slow").touch()
    device = Device(exclusive=True)
    keeper = make(device)
    await ask_and_go(keeper, tmp_path)
    await keeper.stop()
    assert not is_alive(pids(tmp_path)[0][0])
    assert await state(keeper) == "stopped"
    await asyncio.wait_for(device.acquire("training"), 5)
    device.release()


async def ask_and_go(keeper: Keeper, folder: Path) -> None:
    """Ask for the LLM, and be gone while its process starts."""

    async def hold() -> None:
        async with keeper.lease(brief=True):
            raise AssertionError("it takes longer to start")

    asked = asyncio.create_task(hold())
    await until(lambda: bool(pids(folder)))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert asked.cancelled()


def test_it_never_outlives_the_daemon(tmp_path: Path) -> None:
    """Neither the server nor what it started, when the process that keeps it is killed."""
    code = (
        "import asyncio, sys; from pathlib import Path; sys.path[:0] = sys.argv[2:];"
        "from tests.unit.test_llm_keeper import model; from reflexd.engine.llm.keeper import Keeper;"
        "from reflexd.engine.device import Device; from reflexd.config import Llm\n"
        "async def main():\n"
        "    folder = Path(sys.argv[1])\n"
        "    async with Keeper(Llm(), lambda: model(folder), folder / 'log', Device(False)).lease():\n"
        "        print('up', flush=True); await asyncio.sleep(600)\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *sys.path[1:]], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        assert b"up\n" in iter(daemon.stdout.readline, b""), "it has started"
        daemon.kill()
    ((server, child),) = pids(tmp_path)
    deadline = time.monotonic() + 20
    while is_alive(server) or is_alive(child):
        assert time.monotonic() < deadline, "an orphan is left"
        time.sleep(0.05)


@pytest.mark.parametrize("ended", [True, False])
def test_a_process_that_starts_after_the_server_has_ended_ends_too(tmp_path: Path, ended: bool) -> None:
    """The parent-death signal comes to no process that asks for it too late."""
    begun = tmp_path / "begun"
    starts = f'exec {sys.executable} -c \'open("{begun}", "w").close()\''
    script = f"(while kill -0 $$ 2>/dev/null; do sleep 0.01; done; {starts}; ) & exit" if ended else f"({starts}); true"
    environment = {**os.environ, "PYTHONPATH": str(SITE)}
    with subprocess.Popen(["sh", "-c", f"{script}"], start_new_session=True, env=environment) as server:
        assert server.wait(20) == 0
    end = time.monotonic() + (2 if ended else 20)
    while not begun.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert begun.exists() is not ended
