"""Shows how training processes live and die: warm, reused, killed with their run, never longer than their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from reflexd.engine import runner
from reflexd.engine.runner import LocalExecutor
from reflexd.errors import WorkerDied
from reflexd.hookspecs import Example, ExecutorOptions
from reflexd.registry import runs
from reflexd.schemas.worker import Event, Failed, Message, Prepared, RunSpec, Stage, Trained

pytestmark = pytest.mark.anyio

ROWS = [{"text": f"{word} number {n}", "label": word} for word in ("billing", "bug") for n in range(6)]


@pytest.fixture
async def executor() -> AsyncIterator[LocalExecutor]:
    made = LocalExecutor(ExecutorOptions(slots=2, warm=1, threads=1, runs_per_child=3, nice=0))
    yield made
    await made.stop()


def make_spec(folder: Path, encoder_dir: Path, stage: Stage, payload: object = ROWS) -> RunSpec:
    if not (folder / "job").exists():
        given = runs.RunInput(source="training_data", payload=msgspec.Raw(msgspec.json.encode(payload)))
        runs.create(folder, "job", given)
    (folder / "models").mkdir(exist_ok=True)
    return RunSpec(
        job_id="job", stage=stage, run_dir=str(folder / "job"), models_dir=str(folder / "models"), model_id="m",
        backbone=str(encoder_dir), checkpoint="", seed=1, threads=1,
    )  # fmt: skip


async def last(executor: LocalExecutor, spec: RunSpec) -> Event:
    return [event async for event in executor.run(spec)][-1]


def children() -> list[int]:
    """Process ids of the training processes of this test process."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(p) for p in listed if b"reflexd.engine.worker" in Path(f"/proc/{p}/cmdline").read_bytes()]


async def test_both_stages_in_one_reused_process(executor: LocalExecutor, tmp_path: Path, encoder_dir: Path) -> None:
    first = await last(executor, make_spec(tmp_path, encoder_dir, "prepare"))
    assert first == Prepared(labels=["billing", "bug"], examples=12)
    before = children()
    done = await last(executor, make_spec(tmp_path, encoder_dir, "train"))
    assert isinstance(done, Trained)
    assert (tmp_path / "models" / "m" / "manifest.json").exists()
    assert set(before) <= set(children())


async def test_a_process_trains_sets_of_labels_from_a_base(
    executor: LocalExecutor, tmp_path: Path, encoder_dir: Path
) -> None:
    """The mode that the prepare stage found, and the copy of the base, reach the train stage."""
    rows = [{"text": row["text"], "labels": [row["label"], "any"][: 1 + n % 2]} for n, row in enumerate(ROWS)]
    base = None
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        given = runs.RunInput(source="training_data", payload=msgspec.Raw(msgspec.json.encode(rows)))
        runs.create(tmp_path / name, "job", given, base)
        prepared = await last(executor, make_spec(tmp_path / name, encoder_dir, "prepare"))
        assert prepared == Prepared(labels=["billing", "any", "bug"], examples=12, mode="multi_label")
        done = await last(executor, make_spec(tmp_path / name, encoder_dir, "train"))
        assert isinstance(done, Trained)
        assert done.mode == "multi_label"
        assert (done.result["n"] == 0) == (base is not None)  # the base has seen all rows of the second job
        base = tmp_path / name / "models" / "m"


async def test_bad_data_fails_the_job_and_spares_the_process(
    executor: LocalExecutor, tmp_path: Path, encoder_dir: Path
) -> None:
    end = await last(executor, make_spec(tmp_path, encoder_dir, "prepare", ROWS[:8]))
    assert isinstance(end, Failed)
    assert (end.code, end.param) == ("insufficient_examples", "training_data")
    (survivor,) = children()[:1]
    (tmp_path / "next").mkdir()
    assert isinstance(await last(executor, make_spec(tmp_path / "next", encoder_dir, "prepare")), Prepared)
    assert survivor in children()


async def test_rows_of_a_killed_prepare_are_kept(executor: LocalExecutor, tmp_path: Path, encoder_dir: Path) -> None:
    spec = make_spec(tmp_path, encoder_dir, "prepare")
    given = msgspec.convert(ROWS, list[Example])
    list(runs.append_rows(tmp_path / "job", given[:7]))
    assert await last(executor, spec) == Prepared(labels=["billing", "bug"], examples=12)
    assert runs.read_rows(tmp_path / "job", Example) == given


async def test_leaving_a_run_ends_its_process(executor: LocalExecutor, tmp_path: Path, encoder_dir: Path) -> None:
    many = [{"text": f"{word} {n} " * 50, "label": word} for word in ("a", "b") for n in range(3000)]
    await last(executor, make_spec(tmp_path, encoder_dir, "prepare", many))
    async with aclosing(executor.run(make_spec(tmp_path, encoder_dir, "train"))) as events:
        async for _ in events:
            break
        busy = [child.process.pid for child in executor._busy]
        assert len(busy) == 1
        assert busy[0] in children()
    assert busy[0] not in children()


async def test_a_killed_process_is_told_as_such(executor: LocalExecutor, tmp_path: Path, encoder_dir: Path) -> None:
    await last(executor, make_spec(tmp_path, encoder_dir, "prepare"))
    running = asyncio.create_task(last(executor, make_spec(tmp_path, encoder_dir, "train")))
    while not executor._busy:
        await asyncio.sleep(0)
    for child in executor._busy:
        os.kill(child.process.pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        await running


async def test_a_second_process_starts_when_a_second_job_needs_it(
    executor: LocalExecutor, tmp_path: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small job is over before another process has paid for itself; two at once still run beside each other."""
    monkeypatch.setattr(runner, "BESIDE_SECONDS", 3600)  # the second job must not wait for it
    specs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        specs.append(make_spec(tmp_path / name, encoder_dir, "prepare"))
        await last(executor, specs[-1])
    assert len(children()) == 1
    async with aclosing(executor.run(msgspec.structs.replace(specs[0], stage="train"))) as events:
        assert await anext(events)
        assert len(children()) == 1
        assert isinstance(await last(executor, msgspec.structs.replace(specs[1], stage="train")), Trained)
        assert len(children()) == 2


async def test_small_jobs_one_after_the_other_are_not_taken_for_a_long_one(
    executor: LocalExecutor, tmp_path: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BESIDE_SECONDS", 3600)
    begun = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        await last(executor, make_spec(tmp_path / str(number), encoder_dir, "prepare"))
        begun.append(executor._warming)
        await asyncio.sleep(0)
    assert all(one is not None and one.cancelled() for one in begun)
    assert begun[0] is not begun[1]


async def test_beside_a_long_job_a_process_stands_by(
    executor: LocalExecutor, tmp_path: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BESIDE_SECONDS", 0.01)
    await last(executor, make_spec(tmp_path, encoder_dir, "prepare"))
    async with aclosing(executor.run(make_spec(tmp_path, encoder_dir, "train"))) as events:
        assert await anext(events)
        async with asyncio.timeout(60):
            while len(children()) < 2:
                await asyncio.sleep(0.05)


async def test_a_process_is_replaced_after_its_runs(executor: LocalExecutor, tmp_path: Path, encoder_dir: Path) -> None:
    seen = set()
    for number in range(4):
        (tmp_path / str(number)).mkdir()
        await last(executor, make_spec(tmp_path / str(number), encoder_dir, "prepare"))
        seen |= {child.process.pid for child in executor._idle if child.runs}
    assert len(seen) == 2


def test_a_process_ends_with_its_parent() -> None:
    """The parent is killed with SIGKILL, so nothing but the lifeline can end the child."""
    parent_code = (
        "import subprocess, sys, time;"
        "c = subprocess.Popen([sys.executable, '-m', 'reflexd.engine.worker', '0'],"
        " stdin=subprocess.PIPE, stdout=subprocess.PIPE);"
        "c.stdout.readline(); print(c.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    handle = _pidfd(child)
    if handle is not None:
        import select

        assert select.select([handle], [], [], 20)[0]
        os.close(handle)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def test_what_a_library_prints_is_no_protocol(tmp_path: Path) -> None:
    """Descriptor 1 of the worker is its stderr, so a stray print cannot be taken for an event."""
    code = (
        "import os, sys; sys.argv = ['worker', '0'];"
        "from reflexd.engine import stages; "
        'stages.Stages.run = lambda self, spec: (print(\'{"event":"ready","pid":1}\', flush=True), 1/0);'
        "from reflexd.engine import worker; worker.main()"
    )
    spec = RunSpec(
        job_id="j",
        stage="train",
        run_dir=str(tmp_path),
        models_dir=str(tmp_path),
        model_id="m",
        backbone="",
        checkpoint="",
        seed=1,
        threads=1,
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert b'"ready"' in child.stdout.readline()
    child.stdin.write(msgspec.json.encode(spec) + b"\n")
    child.stdin.flush()
    answer = msgspec.json.decode(child.stdout.readline())
    child.kill()
    child.communicate()
    assert answer["event"] == "failed"
    assert "ZeroDivisionError" in answer["message"]


async def test_a_source_is_told_that_its_job_is_cancelled(
    executor: LocalExecutor, tmp_path: Path, encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's source that waits for `cancelled`, and writes down that it saw it."""
    site = tmp_path / "site"
    (site / "waiting_source-1.dist-info").mkdir(parents=True)
    (site / "waiting_source-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: waiting-source\nVersion: 1\n"
    )
    (site / "waiting_source-1.dist-info" / "entry_points.txt").write_text("[reflexd]\nwaiting = waiting_source\n")
    (site / "waiting_source.py").write_text(
        "from reflexd import hookimpl\n"
        "class Waiting:\n"
        "    name = 'waiting'\n"
        "    def check(self, payload, labels): return None\n"
        "    def rows(self, payload, context):\n"
        "        context.emit('waiting')\n"
        "        while not context.cancelled.wait(0.01): pass\n"
        "        (context.run_dir / 'told').write_text('yes')\n"
        "        return []\n"
        "@hookimpl\n"
        "def register_data_sources(register): register(Waiting())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    runs.create(tmp_path, "job", runs.RunInput(source="waiting", payload=msgspec.Raw(b"null")))
    async with aclosing(executor.run(make_spec(tmp_path, encoder_dir, "prepare"))) as events:
        async for event in events:
            assert isinstance(event, Message)
            break
    assert (tmp_path / "job" / "told").read_text() == "yes"


def test_only_a_job_that_tunes_imports_torch() -> None:
    """It takes seconds of processor time and 200 MB, which a job that fits a head alone is spared."""
    code = "import sys; import reflexd.engine.stages; print({'torch', 'transformers', 'peft'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
