"""Decides how each part of the daemon is built from the configuration and the data directory."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from reflexd.config import Config
from reflexd.engine.apply.model import ApplyModel, server_of
from reflexd.engine.apply.pool import Pool, PoolOptions
from reflexd.engine.backbones import Backbones, Ground
from reflexd.engine.device import Device
from reflexd.engine.encoder import Encoder
from reflexd.engine.encoders import Encoders
from reflexd.engine.llm import launch
from reflexd.engine.llm.direct import Direct
from reflexd.engine.llm.external import External, check_server
from reflexd.engine.llm.keeper import Keeper
from reflexd.engine.predictor import Predictor
from reflexd.engine.residents import Residents
from reflexd.errors import StartupError
from reflexd.hookspecs import Executor, ExecutorOptions, needs_llm
from reflexd.plugins import PluginManager
from reflexd.registry.data_directory import DataDirectory, cache_directory
from reflexd.scheduler.dispatcher import DispatchOptions
from reflexd.service.admission import Admission
from reflexd.service.apply import ApplyService
from reflexd.service.base_models import BaseModels
from reflexd.service.batch_runner import BatchRunner
from reflexd.service.batch_work import Workplace
from reflexd.service.chat import ChatService, LanguageModel
from reflexd.service.files import FileService
from reflexd.service.job_files import JobFiles
from reflexd.service.jobs import JobService
from reflexd.service.made_rows import MadeRows
from reflexd.service.predictions import PredictionService, PredictLimits
from reflexd.service.webhooks import WebhookService
from reflexd.store.store import Store

ACCELERATOR = Path("/proc/driver/nvidia")
"""There where a GPU's driver is loaded."""


class Parts:
    """Builds the parts that need more than one line; daemon.py puts them together."""

    def __init__(self, config: Config, directory: DataDirectory) -> None:
        self._config = config
        self._directory = directory

    def backbones(self, plugins: PluginManager) -> Backbones:
        """Return the sentence encoders of this machine."""
        return Backbones(plugins.checkpoints, self._directory.backbones, cache_directory(self._config))

    def executor(self, plugins: PluginManager) -> Executor:
        """Return who runs training; raises StartupError where no plugin registers the one that is configured."""
        name, training = self._config.training.executor, self._config.training
        if name not in plugins.executors:
            raise StartupError(f"[training] executor: no plugin registers {name!r}")
        options = ExecutorOptions(
            slots=self._slots(),
            warm=training.warm_children,
            threads=self._threads(),
            runs_per_child=training.runs_per_child,
            nice=training.nice,
        )
        return plugins.executors[name](options)

    def device(self) -> Device:
        """Return the machine's device: an accelerator where there is one."""
        return Device(exclusive=ACCELERATOR.exists())

    def llm(self, device: Device) -> Keeper | External:
        """Return the local LLM; whether one is set up is asked when one is needed."""
        options, root = self._config.llm, self._directory.llm
        if options.url:
            return External(options, self._config.network)
        find = partial(launch.find_model, options, root, self._config.training.nice)
        return Keeper(options, find, root / "server.log", device)

    def llm_missing(self) -> str | None:
        """Return what is to be done before there is a local LLM; None where there is one."""
        return None if self._config.llm.url else launch.missing(self._config.llm, self._directory.llm)

    def apply_pool(self) -> Pool:
        """Return the processes that merge updates, of which none runs yet."""
        given = self._config.apply
        return Pool(PoolOptions(workers=given.workers, queue=given.queue, merge_seconds=given.merge_seconds))

    def chat(self, pool: Pool, direct: Direct, llm: Keeper | External) -> ChatService:
        """Return the service of chat completions; raises StartupError for a server that cannot or may not be asked."""
        given, model, lease = self._config.apply, None, partial(llm.lease, brief=True)
        if given.url:
            check_server("apply", given.url, given.model, self._config.network)
            model = ApplyModel(direct, server_of(given), "chat/completions")
        elif given.use_llm:
            model = ApplyModel(direct, lease, "completions")
        language_model = LanguageModel(direct, lease, self.llm_missing)
        return ChatService(ApplyService(pool, given, model), language_model, given)

    def predictions(self, store: Store) -> PredictionService:
        """Return the service that answers predict requests, without a predictor yet."""
        given = self._config.predict
        limits = PredictLimits(
            queue=given.queue,
            concurrent_per_key=given.concurrent_per_key,
            batch_bytes=given.batch_bytes,
            content=self._config.limits,
        )
        return PredictionService(store, limits)

    def predictor(self, encoder: Encoder, others: Encoders) -> Predictor:
        """Return the threads that classify, with the configured encoder and the others."""
        given = self._config.predict
        threads = given.threads or os.cpu_count() or 1
        residents = Residents(encoder, self._directory.models, given.resident_bytes, others.of_model)
        return Predictor(residents, threads)

    def batch_runner(self, store: Store, predictions: PredictionService, files: FileService) -> BatchRunner:
        """Return what works on batches."""
        return BatchRunner(
            Workplace(
                store=store,
                predictions=predictions,
                files=files,
                folder=self._directory.batches,
                limits=self._config.batches,
                clock=time.time,
            )
        )

    def jobs(
        self,
        store: Store,
        files: FileService,
        plugins: PluginManager,
        backbones: Backbones,
        predictions: PredictionService,
        webhooks: WebhookService,
    ) -> JobService:
        """Return the service of training jobs."""
        directory = self._directory
        return JobService(
            store,
            Admission(
                plugins.data_sources,
                self._config.limits,
                webhooks.check_url,
                self._config.training.max_budget_seconds,
                self.llm_missing,
            ),
            JobFiles(files, plugins.data_sources, self._config.limits),
            BaseModels(store, directory.models, backbones),
            self._config.training.queued_per_key,
            directory.runs,
            directory.models,
            predictions.forget,
        )

    def dispatch_options(
        self,
        ground: Callable[[Path], Awaitable[Ground]],
        plugins: PluginManager,
        llm: Keeper | External,
        made: MadeRows,
        device: Device,
    ) -> DispatchOptions:
        """Return what the dispatcher goes by; `ground` gives a run what it trains on."""
        training = self._config.training
        return DispatchOptions(
            slots=self._slots(),
            running_per_key=training.running_per_key,
            max_attempts=training.max_attempts,
            threads=self._threads(),
            budget_seconds=training.budget_seconds,
            keep_rows=training.keep_rows,
            runs_dir=self._directory.runs,
            models_dir=self._directory.models,
            plugins_allow=list(self._config.plugins.allow),
            ground=ground,
            llm_sources=frozenset(name for name, source in plugins.data_sources.items() if needs_llm(source)),
            lease_llm=llm.lease,
            keep_made=made.keep,
            device=device,
        )

    def _slots(self) -> int:
        return self._config.training.slots or max(2, (os.cpu_count() or 1) // 2)

    def _threads(self) -> int:
        return self._config.training.threads or max(1, (os.cpu_count() or 1) // self._slots())
