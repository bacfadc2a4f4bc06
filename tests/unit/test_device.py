"""Shows that an accelerator is the language model's or training's, and that neither waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from reflexd.engine.device import Device, Use

pytestmark = pytest.mark.anyio


async def begun(device: Device, use: Use, log: list[str]) -> asyncio.Task[None]:
    async def work() -> None:
        await device.acquire(use)
        log.append(use)

    task = asyncio.create_task(work())
    await settled()
    return task


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_trainings_share_it_and_the_language_model_waits_for_all_of_them() -> None:
    device, log = Device(exclusive=True), list[str]()
    await begun(device, "training", log)
    await begun(device, "training", log)
    await begun(device, "llm", log)
    assert (log, device.wanted("llm")) == (["training", "training"], True)
    await begun(device, "training", log)
    assert log == ["training", "training"], "who comes later does not overtake it"
    device.release()
    await settled()
    assert log == ["training", "training"]
    device.release()
    await settled()
    assert log == ["training", "training", "llm"]
    assert (device.wanted("training"), device.wanted("llm")) == (True, False)
    device.release()
    await settled()
    assert log[-1] == "training"


async def test_a_wait_that_is_given_up_blocks_nobody() -> None:
    device, log = Device(exclusive=True), list[str]()
    await begun(device, "training", log)
    waiting = await begun(device, "llm", log)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await begun(device, "training", log)
    assert log == ["training", "training"]


async def test_a_processor_is_everybodys() -> None:
    device, log = Device(exclusive=False), list[str]()
    for use in ("training", "llm", "training"):
        await begun(device, use, log)  # type: ignore[arg-type]
    assert log == ["training", "llm", "training"]
