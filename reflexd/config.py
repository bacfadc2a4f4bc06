"""Decides what can be configured, its default and bounds, and where each value came from: flag > env > file > default.

reflexd.toml in the top level is these Structs written out; a test holds the two together.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from reflexd.errors import StartupError

PREFIX = "REFLEXD_"

Count = Annotated[int, Meta(ge=1)]
Auto = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]+(\.[a-z0-9_-]+)*", re.IGNORECASE)
"""A host name as it travels: ASCII letters, digits, - and _, between single dots."""


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of reflexd.toml; an unknown key in it is an error."""


class Http(Section, frozen=True):
    """[http]: where the daemon listens and what a request may cost."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 7335
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 33_554_432
    bodies_bytes: Annotated[int, Meta(ge=1024)] = 268_435_456
    head_timeout_seconds: Seconds = 10.0
    body_timeout_seconds: Seconds = 60.0
    write_timeout_seconds: Seconds = 60.0
    keep_alive_seconds: Annotated[int, Meta(ge=1, le=86_400)] = 75
    allowed_hosts: list[str] = []
    drain_timeout_seconds: Annotated[float, Meta(ge=0, le=3600)] = 30.0

    def __post_init__(self) -> None:
        """Refuse an entry of allowed_hosts that no Host header could match, as a pattern or an address with a port."""
        for entry in self.allowed_hosts:
            if not HOST_NAME.fullmatch(entry.removeprefix(".")):
                raise ValueError(
                    f"allowed_hosts: {entry!r} is no host name: give one like 'reflex.example.com' without scheme and "
                    "port (IP addresses need no entry), or '.example.com' for a domain with its subdomains"
                )


class Storage(Section, frozen=True):
    """[storage]: where the daemon keeps everything."""

    data_dir: str = ""
    cache_dir: str = ""


class Log(Section, frozen=True):
    """[log]: what goes to stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Limits(Section, frozen=True):
    """[limits]: bounds of one request's content."""

    rows: Count = 50_000
    labels: Annotated[int, Meta(ge=2)] = 1_000
    label_chars: Count = 256
    text_chars: Count = 400_000
    texts: Count = 1_000
    models: Count = 1_000
    answer_values: Count = 500_000
    streams: Count = 1_000
    streams_per_key: Count = 100


class Training(Section, frozen=True):
    """[training]: what jobs train on, how many run, and how."""

    backbone: str = "all-MiniLM-L6-v2"
    budget_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 120.0
    max_budget_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 3600.0
    keep_rows: Auto = 32
    slots: Auto = 0
    threads: Auto = 0
    running_per_key: Count = 3
    queued_per_key: Count = 10_000
    warm_children: Auto = 1
    runs_per_child: Count = 50
    max_attempts: Count = 3
    nice: Annotated[int, Meta(ge=0, le=19)] = 15
    executor: str = "local"
    hold: bool = False


class Predict(Section, frozen=True):
    """[predict]: how much is classified at once."""

    threads: Auto = 0
    queue: Count = 512
    concurrent_per_key: Count = 128
    batch_bytes: Annotated[int, Meta(ge=1024)] = 8_388_608
    resident_bytes: Annotated[int, Meta(ge=1_048_576)] = 536_870_912


class Backbone(Section, frozen=True):
    """[backbone]: how sentence encoders are exported."""

    precision: Literal["int8", "fp32", "bf16"] = "int8"


class Network(Section, frozen=True):
    """[network]: what may leave this machine."""

    offline: bool = False
    allow: list[str] = []
    ca_file: str = ""

    def __post_init__(self) -> None:
        """Refuse an entry of `allow` that is neither a host name nor an address or network."""
        for entry in self.allow:
            try:
                ipaddress.ip_network(entry, strict=False)
            except ValueError:
                if not HOST_NAME.fullmatch(entry.removeprefix(".")) or entry.rpartition(".")[2].isdigit():
                    raise ValueError(
                        f"allow: {entry!r} is neither a host name (like 'hooks.example.com', or '.example.com' for its "
                        "subdomains) nor an address or network (like '10.1.0.0/16'); no scheme and no port"
                    ) from None


class Webhooks(Section, frozen=True):
    """[webhooks]: how deliveries are sent and how long their log is kept."""

    timeout_seconds: Annotated[float, Meta(gt=0, le=60)] = 15.0
    concurrent: Count = 64
    endpoints_per_tenant: Count = 20
    keep_days: Count = 30


class Files(Section, frozen=True):
    """[files]: how much may be uploaded."""

    max_bytes: Annotated[int, Meta(ge=1024)] = 209_715_200
    tenant_bytes: Annotated[int, Meta(ge=4096)] = 10_737_418_240
    files_per_tenant: Count = 100_000
    uploads: Count = 100
    uploads_per_tenant: Count = 8
    upload_timeout_seconds: Seconds = 600.0


class Batches(Section, frozen=True):
    """[batches]: how much may be handed over at once, and how long the answers are kept."""

    rows: Count = 10_000
    lines: Count = 50_000
    models: Count = 10_000
    output_bytes: Annotated[int, Meta(ge=1024)] = 1_073_741_824
    unfinished_per_key: Count = 100
    keep_days: Count = 30


class Llm(Section, frozen=True):
    """[llm]: the local language model that writes and judges training texts."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    model: str = ""
    url: str = ""
    api_key: str = ""
    threads: Auto = 0
    concurrency: Auto = 0
    context_tokens: Annotated[int, Meta(ge=256, le=1_000_000)] = 2048
    start_seconds: Seconds = 300.0
    answer_seconds: Seconds = 300.0
    idle_seconds: Seconds = 300.0


class Apply(Section, frozen=True):
    """[apply]: how lazy edits are merged into files."""

    workers: Count = 2
    queue: Count = 64
    concurrent_per_key: Count = 16
    file_bytes: Annotated[int, Meta(ge=1024)] = 4_194_304
    merge_seconds: Seconds = 10.0
    url: str = ""
    model: str = ""
    api_key: str = ""
    use_llm: bool = False
    answer_seconds: Seconds = 120.0


class Plugins(Section, frozen=True):
    """[plugins]: which installed plugins are loaded."""

    allow: list[str] = []


class Config(Section, frozen=True):
    """The whole of reflexd.toml."""

    http: Http = Http()
    storage: Storage = Storage()
    log: Log = Log()
    limits: Limits = Limits()
    training: Training = Training()
    predict: Predict = Predict()
    backbone: Backbone = Backbone()
    network: Network = Network()
    webhooks: Webhooks = Webhooks()
    files: Files = Files()
    batches: Batches = Batches()
    llm: Llm = Llm()
    apply: Apply = Apply()
    plugins: Plugins = Plugins()


def load_config(
    flags: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None, file: Path | None = None
) -> tuple[Config, dict[str, str]]:
    """Return the effective configuration and, for each dotted key, where its value came from.

    `flags` maps dotted keys to values (None = not given); `file` is the --config flag. Raises StartupError with the
    path of the key and the place it stands in.
    """
    env = os.environ if env is None else env
    found = _find_file(file, env)
    values: dict[str, dict[str, Any]] = {}
    origins = {f"{section}.{key}": "default" for section, struct in _sections().items() for key in _types(struct)}
    if found is not None:
        values = _read_file(found)
        origins.update({f"{s}.{k}": f"file {found}" for s, table in values.items() for k in table})
    for section, key, name, text in _from_env(env):
        values.setdefault(section, {})[key] = _parse_env(section, key, name, text)
        origins[f"{section}.{key}"] = f"env {name}"
    for path, value in (flags or {}).items():
        if value is not None:
            section, _, key = path.partition(".")
            values.setdefault(section, {})[key] = value
            origins[path] = f"flag --{key.replace('_', '-')}"
    try:
        return msgspec.convert(values, Config), origins
    except msgspec.ValidationError as error:
        raise StartupError(f"configuration: {error}") from error


def _find_file(flag: Path | None, env: Mapping[str, str]) -> Path | None:
    named = flag or (Path(env["REFLEXD_CONFIG"]) if env.get("REFLEXD_CONFIG") else None)
    if named is not None:
        if not named.is_file():
            raise StartupError(f"configuration: there is no file {named}")
        return named
    folders = [Path()]
    if env.get("XDG_CONFIG_HOME"):
        folders.append(Path(env["XDG_CONFIG_HOME"]) / "reflexd")
    else:
        with contextlib.suppress(RuntimeError):  # a service's user need not have a home
            folders.append(Path.home() / ".config" / "reflexd")
    folders.append(Path(env.get("CONFIGURATION_DIRECTORY") or "/etc/reflexd"))
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder that cannot be looked into holds no file of ours
            if (folder / "reflexd.toml").is_file():
                return folder / "reflexd.toml"
    return None


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        msgspec.convert(values, Config)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError, msgspec.ValidationError) as error:
        raise StartupError(f"configuration: {path}: {error}") from error
    return values


def _sections() -> dict[str, type[Section]]:
    return typing.get_type_hints(Config)


def _types(struct: type[Section]) -> dict[str, Any]:
    return typing.get_type_hints(struct, include_extras=True)


def _from_env(env: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Return (section, key, variable, text) of every REFLEXD_SECTION__KEY; KEY_FILE names a file that holds it."""
    out = []
    for name, given in env.items():
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(PREFIX).lower().partition("__")
        text, fields = given, _types(_sections()[section]) if section in _sections() else {}
        if key.endswith("_file") and key.removesuffix("_file") in fields:
            key = key.removesuffix("_file")
            if name.removesuffix("_FILE") in env:
                raise StartupError(f"configuration: both {name} and {name.removesuffix('_FILE')} are set")
            try:
                text = Path(given).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise StartupError(f"configuration: {name}: cannot read {given}: {error}") from error
        if key not in fields:
            raise StartupError(f"configuration: {name}: there is no key `{section}.{key}`")
        out.append((section, key, name, text))
    return out


def _parse_env(section: str, key: str, name: str, text: str) -> Any:
    kind = _types(_sections()[section])[key]
    value: Any = [part.strip() for part in text.split(",") if part.strip()] if kind == list[str] else text
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise StartupError(f"configuration: {name} ({section}.{key}): {error}") from error
