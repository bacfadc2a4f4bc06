"""Decides the application: its routes, its guard, its dependencies, and the envelope around it."""

from __future__ import annotations

from typing import Any

from litestar import Litestar
from litestar.di import Provide
from litestar.types import ASGIApp, ControllerRouterHandler
from msgspec import Struct

from reflexd.api import errors
from reflexd.api.api_page import document_route, page_routes
from reflexd.api.auth import current_key, is_retried, key_guard
from reflexd.api.batches import AsynchronousBatchController, BatchController
from reflexd.api.chat import chat_completion
from reflexd.api.envelope import Envelope
from reflexd.api.files import FilesController
from reflexd.api.fine_tuning import FineTuningController
from reflexd.api.health import healthz, readyz
from reflexd.api.hosts import AllowedHosts
from reflexd.api.hot_path import HotPath
from reflexd.api.metrics import metrics
from reflexd.api.models import ModelsController
from reflexd.api.openapi import Described, build_document
from reflexd.api.predict import ReflexController
from reflexd.api.webhook_endpoints import DeliveryController, EndpointController, webhook_event_types
from reflexd.config import Http
from reflexd.service.batches import BatchService
from reflexd.service.chat import ChatService
from reflexd.service.event_streams import EventStreams
from reflexd.service.files import FileService
from reflexd.service.jobs import JobService
from reflexd.service.made_rows import MadeRows
from reflexd.service.models import ModelService
from reflexd.service.predictions import PredictionService
from reflexd.service.readiness import Readiness
from reflexd.service.uploads import Uploads
from reflexd.service.webhooks import WebhookService
from reflexd.store.keys import KeyStore
from reflexd.store.models import ModelStore

ROUTE_HANDLERS: list[ControllerRouterHandler] = [
    FineTuningController,
    FilesController,
    ModelsController,
    ReflexController,
    EndpointController,
    DeliveryController,
    webhook_event_types,
    AsynchronousBatchController,
    BatchController,
    chat_completion,
    healthz,
    readyz,
    metrics,
]
"""All that answers but the public files of api_page.py; tests walk it, so that no new route escapes them."""


class Services(Struct, frozen=True, kw_only=True):
    """What the handlers call."""

    keys: KeyStore
    models: ModelStore
    jobs: JobService
    made: MadeRows
    files: FileService
    uploads: Uploads
    served: ModelService
    streams: EventStreams
    predictions: PredictionService
    webhooks: WebhookService
    batches: BatchService
    chat: ChatService
    readiness: Readiness


def create_app(services: Services, http: Http, described: Described) -> ASGIApp:
    """Return the ASGI application, which publishes the description of its own routes."""

    def given(value: Any) -> Provide:
        return Provide(lambda: value, sync_to_thread=False)

    app = Litestar(
        route_handlers=[*ROUTE_HANDLERS, *page_routes()],
        dependencies={
            "key": Provide(current_key, sync_to_thread=False),
            "retried": Provide(is_retried, sync_to_thread=False),
            "jobs": given(services.jobs),
            "made": given(services.made),
            "files": given(services.files),
            "uploads": given(services.uploads),
            "models": given(services.models),
            "served": given(services.served),
            "streams": given(services.streams),
            "predictions": given(services.predictions),
            "webhooks": given(services.webhooks),
            "batches": given(services.batches),
            "chat": given(services.chat),
            "readiness": given(services.readiness),
        },
        guards=[key_guard(services.keys)],
        exception_handlers={Exception: errors.answer},
        request_max_body_size=http.max_body_bytes,
        openapi_config=None,  # openapi.py says why
        logging_config=None,
    )
    app.register(document_route(build_document(app.routes, described)))
    hosts = AllowedHosts(http.host, http.allowed_hosts)
    envelope = Envelope(app, hosts, http, services.uploads.limits.upload_timeout_seconds)
    return HotPath(envelope, hosts, services.keys, services.predictions, http)
