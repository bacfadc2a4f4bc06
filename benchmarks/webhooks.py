"""Decides whether a dead receiver delays the others: 99 live ones with it and without, in the time until all are told.

    python -m benchmarks.webhooks

The daemon's own outbox, scheduler and door, and real receivers in a process of their own: each answers after 20 ms, the
dead one never. It has 500 deliveries waiting, all of them older than anybody else's.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.process import Process, serve
from benchmarks.runner import Side, add_arguments, compare, finish, options_of
from reflexd.config import Network
from reflexd.egress.door import Door
from reflexd.egress.sender import Sender
from reflexd.observability import configure_logging
from reflexd.scheduler.deliveries import Deliveries, DeliveryOptions
from reflexd.store.database import Transaction
from reflexd.store.outbox import enqueue
from reflexd.store.store import Store
from reflexd_plugins.webhook_http import OverHTTP

LIVE, EACH, WAITING = 99, 40, 500
ANSWER_SECONDS = 0.02
LIMIT_SECONDS = 15.0
PLACES = 64
CLAIMED = 1.05


class Receivers:
    """A server for each: /hook is answered, /dead is not."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def start(self) -> dict[str, Any]:
        """Listen on as many free ports as there are receivers and return them, the dead one's first."""
        serving = [asyncio.start_server(self._serve, "127.0.0.1", 0) for _ in range(LIVE + 1)]
        servers = [asyncio.run_coroutine_threadsafe(each, self._loop).result() for each in serving]
        return {"ports": [server.sockets[0].getsockname()[1] for server in servers]}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(3600 if head.startswith(b"POST /dead") else ANSWER_SECONDS)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()


async def deliver(folder: Path, ports: list[int], dead: bool) -> float:
    """Tell all live receivers of EACH events and return the seconds until the last one is recorded."""
    store = await Store.open(folder)
    try:
        key = store.keys.find(await store.keys.create("k"))
        assert key is not None
        tenant = key.tenant_id

        async def tell(tx: Transaction, port: int, path: str, number: int) -> None:
            data = {"id": f"ftjob-{number}", "object": "fine_tuning.job"}
            await enqueue(tx, tenant, "fine_tuning.job.succeeded", data, f"http://127.0.0.1:{port}/{path}")

        async def fill(tx: Transaction) -> None:
            for number in range(WAITING if dead else 0):
                await tell(tx, ports[0], "dead", number)
            for number in range(EACH):
                for port in ports[1:]:
                    await tell(tx, port, "hook", number)

        await store.webhooks.secret(tenant)
        await store.database.write(fill)
        door = Door(Network(allow=["127.0.0.1"]))
        sender = Sender({"http": OverHTTP("http")}, door, LIMIT_SECONDS)
        began = time.perf_counter()
        working = asyncio.create_task(Deliveries(store, sender, DeliveryOptions(PLACES)).run())
        while True:
            row = await store.database.row("SELECT COUNT(*) FROM deliveries WHERE status = 'delivered'")
            assert row is not None
            if row[0] == LIVE * EACH:
                break
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return took
    finally:
        await store.close()


def main() -> int:
    """Run it; exit 0 passed, 1 failed, 3 void."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    arguments = parser.parse_args()
    configure_logging("warning", "console")
    with Process("benchmarks.webhooks", "receivers") as receivers:
        ports = receivers.ask()["ports"]

        def measured(dead: bool) -> float:
            with tempfile.TemporaryDirectory() as folder:
                return asyncio.run(deliver(Path(folder), ports, dead))

        sides = [Side("99 live", lambda: measured(False)), Side("beside a dead one", lambda: measured(True))]
        report = compare(f"{LIVE * EACH} webhooks", sides, options_of(arguments))
    return finish(report, report.ratios["beside a dead one"].median <= CLAIMED, arguments.json)


if __name__ == "__main__":
    if sys.argv[1:] == ["receivers"]:
        serve(Receivers().start)
    else:
        sys.exit(main())
