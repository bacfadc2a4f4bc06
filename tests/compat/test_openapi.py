"""Shows that /openapi.json is a valid description of the routes as they are, and that /docs loads nothing from afar."""

from __future__ import annotations

import os
import re
import types
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import msgspec
import pytest
import schemathesis
from litestar import Litestar
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig

from reflexd.api.app import ROUTE_HANDLERS
from reflexd.api.openapi_operations import OPERATIONS
from reflexd.api.openapi_schemas import request_schemas
from reflexd.config import Limits
from tests.batches import wait_for_end
from tests.daemons import Daemon, wait_for
from tests.distributions import install_example
from tests.jobs import ACTIVE

Document = dict[str, Any]
PUBLIC = {"/healthz", "/health", "/readyz"}
READ_BY_ITSELF = {("/v1/fine_tuning/jobs", "get", "metadata")}
"""Parameters that a handler reads off the request, so that the framework knows nothing of them."""
PROVIDED = (
    "key", "retried", "jobs", "models", "served", "streams", "predictions", "webhooks", "readiness", "files", "uploads",
    "batches", "made", "chat",
)  # fmt: skip


@pytest.fixture(scope="module")
def document(daemon: Daemon) -> Document:
    with daemon.http("") as http:
        found: Document = http.get("/openapi.json").json()
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def check(document: Document, schema: Document, value: Any) -> None:
    """Fail where a value does not fit a schema of the document."""
    jsonschema_rs.validate({**schema, "components": document["components"]}, value)


def resolve(document: Document, given: Document) -> Document:
    """Follow a reference into the components."""
    if "$ref" not in given:
        return given
    kind, name = given["$ref"].removeprefix("#/components/").split("/")
    found: Document = document["components"][kind][name]
    return found


def examples(content: Document) -> list[Any]:
    return [content["example"]] if "example" in content else [each["value"] for each in content["examples"].values()]


def answer(document: Document, path: str, method: str, status: int) -> Document:
    """Return the JSON schema of one answer."""
    response = resolve(document, document["paths"][path][method]["responses"][str(status)])
    schema: Document = response["content"]["application/json"]["schema"]
    return schema


# --- the document ---------------------------------------------------------------------------------------------------


def test_the_document_is_valid_openapi_3_1(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})

    with pytest.raises(jsonschema_rs.ValidationError, match="title"):
        schemathesis.openapi.from_dict({**document, "info": {"version": "1"}}).validate()


def test_it_is_served_to_all_and_a_cache_may_keep_it(daemon: Daemon) -> None:
    with daemon.http("") as http:
        first = http.get("/openapi.json")
        assert (first.status_code, first.headers["content-type"]) == (200, "application/json")
        tag = first.headers["etag"]
        for known in (tag, f'"other", W/{tag}', "*"):
            again = http.get("/openapi.json", headers={"if-none-match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert http.get("/openapi.json", headers={"if-none-match": '"other"'}).content == first.content
        head = http.head("/openapi.json")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the framework's next major version
def test_it_says_what_the_framework_finds_in_the_handlers(document: Document) -> None:
    """The framework's own generator reads the same handlers by other code; both must name the same parameters."""
    app = Litestar(
        route_handlers=ROUTE_HANDLERS,
        dependencies={name: Provide(lambda: None, sync_to_thread=False) for name in PROVIDED},
        openapi_config=OpenAPIConfig(title="", version="", path="/elsewhere"),
    )
    found = app.openapi_schema.to_schema()

    def parameters(source: Document) -> set[Any]:
        return {
            (path, method, each["name"], each["in"], each.get("required", False), bound, each["schema"].get(bound))
            for path, methods in source["paths"].items()
            for method, operation in methods.items()
            for each in operation.get("parameters", ())
            for bound in ("minimum", "maximum", "default")
            if (path, method, each["name"]) not in READ_BY_ITSELF
        }

    ours = {(path, method) for path, method, _ in operations(document)}
    assert ours == {(path, method) for path, method, _ in operations(found) if not path.startswith("/elsewhere")}
    assert ours == {(path, method.lower()) for method, path in OPERATIONS}
    assert parameters(document) == parameters(found)


def test_each_operation_is_named_and_says_who_may_call_it(daemon: Daemon, document: Document) -> None:
    identifiers = [operation["operationId"] for _, _, operation in operations(document)]
    tags = {tag["name"] for tag in document["tags"]}
    assert len(set(identifiers)) == len(identifiers)
    with daemon.http("") as nobody, daemon.http(daemon.create_key("narrow", "--scope", "train")) as trainer:
        for path, method, operation in operations(document):
            assert operation["summary"]
            assert operation["description"]
            assert set(operation["tags"]) <= tags
            url = re.sub(r"\{\w+\}", "x", path)
            if path in PUBLIC:
                assert operation["security"] == []
                assert nobody.request(method, url).status_code == 200
                continue
            assert nobody.request(method, url).status_code == 401
            access = re.search(r"The key needs the scope (.*)\.$", operation["description"])
            assert access is not None
            scopes = re.findall(r"`(\w+)`", access[1])
            assert scopes
            assert (trainer.request(method, url).status_code == 403) == ("train" not in scopes)


def test_every_example_fits_its_schema(document: Document) -> None:
    checked = 0
    for path, method, operation in operations(document):
        contents = list(operation.get("requestBody", {}).get("content", {}).values())
        for status, given in operation["responses"].items():
            response = resolve(document, given)
            assert "x-request-id" in response["headers"], (path, method, status)
            assert ("content" in response) == (method != "head"), (path, method, status)
            contents += response.get("content", {}).values()
        for content in contents:
            for example in examples(content):
                check(document, content["schema"], example)
                checked += 1
    assert checked > 100
    with pytest.raises(jsonschema_rs.ValidationError):
        check(document, answer(document, "/v1/models", "get", 200), {"object": "list", "data": [{"id": "x"}]})


def test_errors_are_named_one_by_one(document: Document) -> None:
    for path, method, operation in operations(document):
        statuses = set(operation["responses"])
        assert "200" in statuses
        assert "default" not in statuses
        assert statuses.isdisjoint({"405", "2XX", "4XX", "5XX"})
        assert ("401" in statuses) == (path not in PUBLIC)
        assert {"413", "415"} <= statuses if "requestBody" in operation else statuses.isdisjoint({"413", "415"})
        for status in statuses - {"200"} if path != "/readyz" else ():
            response = resolve(document, operation["responses"][status])
            if method != "head":
                codes = response["content"]["application/json"]["schema"]["allOf"][1]
                assert codes["properties"]["error"]["properties"]["code"]["enum"], (path, method, status)
    limits = document["paths"]["/v1/fine_tuning/jobs/{job_id}/events"]["get"]
    assert set(limits["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}


@pytest.mark.timeout(240)
def test_every_request_example_is_accepted_and_answered_as_described(
    daemon: Daemon, key: str, document: Document
) -> None:
    with daemon.http(key) as http:
        created = "/v1/fine_tuning/jobs"
        for example in request_examples(document, created):
            made = http.post(created, json=example)
            assert made.status_code == 200, (example, made.text)
            check(document, answer(document, created, "post", 200), made.json())
            job = wait_for(lambda: ended(http, made.json()["id"]), "the job has ended")  # noqa: B023
            assert job["status"] == ("prepared" if example.get("auto_train") is False else "succeeded"), job
            check(document, answer(document, created + "/{job_id}", "get", 200), job)
            for part in ("events", "checkpoints"):
                listed = http.get(f"{created}/{job['id']}/{part}").json()
                check(document, answer(document, f"{created}/{{job_id}}/{part}", "get", 200), listed)
        for path in ("/v1/reflex/predict", "/v1/reflex/synchronous_predict_batch"):
            for example in request_examples(document, path):
                found = http.post(path, json=example)
                assert found.status_code == 200, (example, found.text)
                check(document, answer(document, path, "post", 200), found.json())
        uploads = "/v1/reflex/asynchronous_batches"
        for example in request_examples(document, uploads + "/upload"):
            taken = http.post(uploads + "/upload", json=example)
            assert taken.status_code == 200, (example, taken.text)
            check(document, answer(document, uploads + "/upload", "post", 200), taken.json())
            done = wait_for_end(http, taken.json()["id"])
            check(document, answer(document, uploads + "/{batch_id}", "get", 200), done)
            found = http.get(f"{uploads}/{done['id']}/results").json()
            check(document, answer(document, uploads + "/{batch_id}/results", "get", 200), found)
        for path in (created, "/v1/models", "/v1/batches"):
            check(document, answer(document, path, "get", 200), http.get(path).json())
        for job in http.get(created).json()["data"]:
            http.delete(f"{created}/{job['id']}").raise_for_status()


def request_examples(document: Document, path: str) -> list[Any]:
    return examples(document["paths"][path]["post"]["requestBody"]["content"]["application/json"])


def ended(http: httpx2.Client, job_id: str) -> Document | None:
    job: Document = http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    return None if job["status"] in ACTIVE else job


def test_bounds_in_force_and_the_fields_of_plugins_are_described(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    site = install_example(tmp_path)
    started = start_daemon(
        ready=False,
        PYTHONPATH=f"{site}:{os.environ.get('PYTHONPATH', '')}",
        REFLEXD_LIMITS__TEXTS="7",
        REFLEXD_LIMITS__LABEL_CHARS="33",
    )
    wait_for(lambda: "listening" in started.log(), "it listens")
    schemas = httpx2.get(f"{started.url}/openapi.json").json()["components"]["schemas"]

    create = schemas["CreateJobRequest"]
    assert {"training_data", "generate", "label_data", "csv"} <= set(create["properties"])
    assert "`csv`" in create["description"]
    assert create["properties"]["labels"]["items"]["maxLength"] == 33
    assert schemas["PredictRequest"]["properties"]["texts"]["maxItems"] == 7
    assert schemas["BatchRequest"]["properties"]["requests"]["maxItems"] == 7


class PredictRequest(msgspec.Struct):
    """A stranger's type with a name of ours."""

    colour: str


class Opaque:
    """A type that msgspec cannot describe."""


@pytest.mark.parametrize(("kind", "described"), [(PredictRequest, True), (Opaque, False)])
def test_a_strangers_types_are_not_mistaken_for_ours(kind: type, described: bool) -> None:
    source = types.SimpleNamespace(name="paint é", payload_type=kind)
    components = request_schemas(Limits(), 10, {source.name: source})

    field = components["CreateJobRequest"]["properties"]["paint é"]
    assert "colour" not in components["PredictRequest"]["properties"]
    assert ("anyOf" in field) == described
    if described:
        name = field["anyOf"][0]["$ref"].rpartition("/")[2]
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert set(components[name]["properties"]) == {"colour"}


# --- the page -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Gathers what a page loads or leads to, and whether anything in it is inline."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open = tag
        for name, value in attributes:
            if name in ("src", "href", "action", "srcset", "data", "poster"):
                (self.links if tag == "a" else self.loaded).append(value or "")
            if name == "style" or name.startswith("on"):
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append(data)


def test_the_page_loads_nothing_from_elsewhere(daemon: Daemon) -> None:
    with daemon.http("") as http:
        shown = http.get("/docs")
        page = Page(shown.text)
        assert shown.headers["content-type"] == "text/html; charset=utf-8"
        assert page.inline == []
        assert page.links == ["/openapi.json"]
        assert len(page.loaded) == 4
        for address in page.loaded:
            assert re.fullmatch(r"/docs/[a-z0-9.-]+", address), address
            loaded = http.get(address)
            assert (loaded.status_code, loaded.headers["x-content-type-options"]) == (200, "nosniff")
            kind = {"js": "text/javascript", "css": "text/css", "png": "image/png"}[address.rpartition(".")[2]]
            assert loaded.headers["content-type"].partition(";")[0] == kind
            assert http.get(address, headers={"if-none-match": loaded.headers["etag"]}).status_code == 304
            if kind == "text/css":
                assert "@import" not in loaded.text
                urls = re.findall(r"url\(\s*[\"']?(.{5})", loaded.text)
                assert urls
                assert set(urls) == {"data:"}


def test_the_pages_policy_forbids_every_other_host(daemon: Daemon) -> None:
    with daemon.http("") as http:
        for path in ("/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js"):
            given = http.get(path).headers
            policy = dict(part.strip().split(" ", 1) for part in given["content-security-policy"].split(";"))
            assert policy.pop("default-src") == "'none'"
            assert policy.pop("img-src") == "'self' data:"
            assert set(policy.values()) == {"'self'", "'none'"}
            assert {"script-src", "style-src", "connect-src", "base-uri", "form-action", "frame-ancestors"} == set(
                policy
            )
            assert given["x-content-type-options"] == "nosniff"
        assert "validatorUrl: null" in http.get("/docs/start.js").text, "the default asks another host"


@pytest.mark.parametrize("name", ["README.md", "swagger-ui/LICENSE", "..%2f__init__.py", "../__init__.py", ""])
def test_no_other_file_is_served(daemon: Daemon, name: str) -> None:
    with daemon.http("") as http:
        assert http.get(f"/docs/{name}").status_code == (404 if name else 200)
