"""Decides how the appliance is put together: builds every part, starts them in order, drains, stops them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial

import structlog
import uvicorn

from reflexd import __version__, startup
from reflexd.admin import AdminVerbs, serve_admin
from reflexd.api.app import Services, create_app
from reflexd.api.openapi import Described
from reflexd.api.protocol import protocol
from reflexd.config import Config
from reflexd.egress.door import Door
from reflexd.egress.sender import Sender
from reflexd.engine.encoders import Encoders
from reflexd.engine.llm.direct import Direct
from reflexd.engine.opening import open_encoder
from reflexd.errors import CannotStartNow, StartupError, StorageFull
from reflexd.observability import configure_logging
from reflexd.parts import Parts
from reflexd.plugins import PluginManager
from reflexd.registry.blobs import Blobs
from reflexd.registry.data_directory import data_directory
from reflexd.scheduler.deliveries import Deliveries, DeliveryOptions
from reflexd.scheduler.dispatcher import Dispatcher
from reflexd.scheduler.periodic import build_timers
from reflexd.service.backbones import BackboneService
from reflexd.service.batch_runner import BatchRunner
from reflexd.service.batches import BatchService
from reflexd.service.event_streams import EventStreams, StreamLimits
from reflexd.service.files import FileService
from reflexd.service.llms import LanguageModelService
from reflexd.service.made_rows import MadeRows
from reflexd.service.models import ModelService
from reflexd.service.readiness import Readiness
from reflexd.service.uploads import Uploads
from reflexd.service.webhooks import WebhookService
from reflexd.store.store import Store

LOCK_PATIENCE_SECONDS = 2.0
"""A command-line verb may hold the directory's lock for a moment."""

log = structlog.get_logger(__name__)


class Daemon:
    """One running appliance."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._directory = data_directory(config)
        self._signals_seen = 0
        self._failure: StartupError | None = None

    async def serve(self) -> None:
        """Run until SIGTERM or SIGINT; raises StartupError (with its exit code) for what prevents the start."""
        config, directory = self._config, self._directory
        parts = Parts(config, directory)
        async with AsyncExitStack() as stack:
            await asyncio.to_thread(directory.claim, LOCK_PATIENCE_SECONDS)
            stack.callback(directory.release)
            plugins = PluginManager(config.plugins.allow)
            backbones = parts.backbones(plugins)
            present = await asyncio.to_thread(backbones.named, config.training.backbone)
            executor = parts.executor(plugins)
            startup.refuse_lost_database(directory)
            store = await Store.open(directory.root)
            stack.push_async_callback(store.close)
            startup.refuse_public_bind(config.http.host, store)
            listening = startup.listen(config.http.host, config.http.port)
            stack.callback(listening.close)
            try:
                await startup.first_key(store, directory)
                await startup.adopt_defaults(store, plugins.default_reflexes, directory)
                await startup.recover(store, directory)
                files = FileService(store, Blobs(directory.files))
                await files.delete_expired()
            except (StorageFull, OSError) as error:
                raise CannotStartNow(f"cannot write the data directory {directory.root}: {error}") from error

            readiness = Readiness(store.database, directory.root)
            predictions = parts.predictions(store)
            door = Door(config.network)
            sender = Sender(plugins.transports, door, config.webhooks.timeout_seconds)
            webhooks = WebhookService(store, sender, config.webhooks.endpoints_per_tenant)
            jobs = parts.jobs(store, files, plugins, backbones, predictions, webhooks)
            made = MadeRows(store, jobs, files, directory.runs)
            uploads = Uploads(store, files, config.files)
            batches = BatchService(store, predictions, uploads, directory.batches, config.batches)
            runner = parts.batch_runner(store, predictions, files)
            limits = StreamLimits(open=config.limits.streams, open_per_key=config.limits.streams_per_key)
            streams = EventStreams(store, limits)
            device = parts.device()
            llm = parts.llm(device)
            stack.push_async_callback(llm.close)
            direct = Direct(config.network.ca_file)
            stack.push_async_callback(direct.close)
            pool = parts.apply_pool()
            stack.push_async_callback(pool.stop)
            server = self._build_server(
                Services(
                    keys=store.keys,
                    models=store.models,
                    jobs=jobs,
                    made=made,
                    files=files,
                    uploads=uploads,
                    served=ModelService(store, jobs),
                    streams=streams,
                    predictions=predictions,
                    webhooks=webhooks,
                    batches=batches,
                    chat=parts.chat(pool, direct, llm),
                    readiness=readiness,
                ),
                Described(limits=config.limits, uploaded=config.batches.rows, sources=plugins.data_sources),
            )

            def on_trouble(why: str | None) -> None:
                if why is None:
                    readiness.clear("training")
                else:  # the log has the reason; a probe's answer is public
                    readiness.block("training", "training processes cannot be started")

            ground = partial(backbones.ground, default=present, precision=config.backbone.precision)
            dispatcher = Dispatcher(
                store, executor, parts.dispatch_options(ground, plugins, llm, made, device), on_trouble
            )
            if config.training.hold:
                log.warning("training is held: jobs are accepted and wait ([training] hold)")
                dispatcher.stop_claiming()

            operated = BackboneService(store, directory, backbones, config.training.backbone, config.backbone.precision)
            llms = LanguageModelService(directory.llm, config.llm, llm)
            admin = await serve_admin(
                AdminVerbs(store, directory, lambda: operated, lambda: webhooks, lambda: llms), directory.socket
            )
            stack.callback(directory.socket.unlink, missing_ok=True)
            stack.callback(admin.close)
            plugins.startup(directory.root)
            stack.callback(lambda: [log.error("plugin failed", why=why) for why in plugins.shutdown()])
            sweeps: dict[str, Callable[[], Awaitable[None]]] = {
                "delete-expired-files": files.delete_expired,
                "forget-deliveries": partial(store.webhooks.forget_old, config.webhooks.keep_days),
                "forget-ended-batches": batches.forget_old,
            }
            timers = build_timers(store, sweeps)
            timers.start()
            stack.callback(timers.shutdown, wait=False)
            stack.push_async_callback(executor.stop)
            self._handle_signals(server, readiness, dispatcher, runner)

            async def work() -> None:
                """Load the encoder, exporting it at the very first start; then answer predictions and run jobs."""
                try:
                    exported = await backbones.export(present, present.precision(config.backbone.precision))
                    loaded = await asyncio.to_thread(open_encoder, exported, forward_threads=1)
                except Exception as error:  # without an encoder there is nothing to serve: stop, and say why
                    log.error("no sentence encoder", exc_info=error)
                    known = error if isinstance(error, StartupError) else None
                    self._failure = known or StartupError(f"the encoder cannot be loaded: {type(error).__name__}")
                    server.should_exit = True
                    return
                predictions.predictor = parts.predictor(loaded, Encoders(backbones))
                gc.collect()
                gc.freeze()  # what is there at the start stays: no later collection need look through it
                readiness.clear("backbone")
                log.info("ready", backbone=present.name, precision=loaded.description.precision)
                async with asyncio.TaskGroup() as both:
                    both.create_task(runner.run())
                    await executor.start()
                    await dispatcher.run()

            async def close_predictor() -> None:
                if predictions.predictor is not None:
                    await asyncio.to_thread(predictions.predictor.close)

            stack.push_async_callback(close_predictor)
            deliveries = Deliveries(store, sender, DeliveryOptions(config.webhooks.concurrent))
            delivering = asyncio.create_task(deliveries.run())
            delivering.add_done_callback(partial(self._ended, server))
            stack.push_async_callback(_end, delivering)
            working = asyncio.create_task(work())
            working.add_done_callback(partial(self._ended, server))
            stack.push_async_callback(_end, working)
            host, port = listening.getsockname()[:2]
            log.info("listening", url=f"http://{host}:{port}", version=__version__, data_dir=str(directory.root))
            await server.serve(sockets=[listening])
            log.info("stopping")
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    def _ended(self, server: uvicorn.Server, working: asyncio.Task[None]) -> None:
        """Stop the daemon when the task that does its work ends by itself: it must not look alive and do nothing."""
        if not working.cancelled() and (error := working.exception()):
            log.critical("the daemon's work has ended", exc_info=error)
            self._failure = CannotStartNow(f"the daemon's work has ended: {type(error).__name__}; the log says more")
            server.should_exit = True

    def _build_server(self, services: Services, described: Described) -> uvicorn.Server:
        http = self._config.http
        return _Server(
            uvicorn.Config(
                create_app(services, http, described),
                http=protocol(http.head_timeout_seconds, http.write_timeout_seconds),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=http.keep_alive_seconds,
                timeout_graceful_shutdown=max(1, int(http.drain_timeout_seconds)),
            ),
            services.streams,
        )

    # --- while running ----------------------------------------------------------------------------------------------

    def _handle_signals(
        self, server: uvicorn.Server, readiness: Readiness, dispatcher: Dispatcher, runner: BatchRunner
    ) -> None:
        loop = asyncio.get_running_loop()

        def stop(number: int) -> None:
            self._signals_seen += 1
            if self._signals_seen > 1:
                log.warning("second signal: ending now")
                os._exit(128 + number)
            readiness.block("draining", "the daemon is stopping")
            dispatcher.stop_claiming()
            runner.stop()
            server.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        loop.add_signal_handler(signal.SIGHUP, lambda: log.info("SIGHUP ignored: restart to read the configuration"))


class _Server(uvicorn.Server):
    """uvicorn with the signals left to the daemon: its own handling would end the process with status 143.

    And before it waits for requests in flight it ends the event streams, whatever made it stop: they are such requests.
    """

    def __init__(self, config: uvicorn.Config, streams: EventStreams) -> None:
        super().__init__(config)
        self._streams = streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def run(config: Config) -> None:
    """Run the daemon in a fresh event loop until it has stopped."""
    import uvloop

    os.umask(0o077)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection is a file; the usual soft limit is 1024
    configure_logging(config.log.level, config.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Daemon(config).serve())
