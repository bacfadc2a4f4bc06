"""Decides which plugins load, in which order, and that a broken one stops the start with its name in the error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from reflexd import hookspecs
from reflexd.errors import StartupError
from reflexd.hookspecs import Checkpoint, DataSource, DefaultReflex, ExecutorFactory, WebhookTransport

if TYPE_CHECKING:
    import click

GROUP = "reflexd"
T = TypeVar("T")


class PluginManager:
    """The loaded plugins and all that they registered, by name."""

    def __init__(self, allow: Sequence[str] = (), found: Iterable[EntryPoint] | None = None) -> None:
        """Load the entry points of the group "reflexd", ours first, then by name; `allow` (if any) restricts them.

        Raises StartupError that names the plugin: for an import failure, a hook that does not exist, an argument that
        its hook does not have, or a name that two plugins register.
        """
        self._manager = pluggy.PluginManager("reflexd")
        self._manager.add_hookspecs(hookspecs)
        self._distributions: dict[str, str] = {}
        points = sorted(entry_points(group=GROUP) if found is None else found, key=_load_order)
        missing = set(allow) - {p.name for p in points}
        if missing:
            raise StartupError(f"[plugins] allow names {', '.join(sorted(missing))}, which is not installed")
        for point in points:
            if not allow or point.name in allow:
                self._load(point)
        self.data_sources: dict[str, DataSource] = self._collect("register_data_sources", lambda s: s.name)
        self.checkpoints: dict[str, Checkpoint] = self._collect("register_checkpoints", lambda c: c.name)
        self.default_reflexes: dict[str, DefaultReflex] = self._collect(
            "register_default_reflexes", lambda r: r.name, lambda r: r.aliases
        )
        self.transports: dict[str, WebhookTransport] = self._collect("register_webhook_transports", lambda t: t.scheme)
        self.executors: dict[str, ExecutorFactory] = self._collect("register_executors", None)

    def _load(self, point: EntryPoint) -> None:
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"
        if point.name in self._distributions:
            other = self._distributions[point.name]
            raise StartupError(f"plugin {point.name}: both {other} and {origin} provide a plugin of this name")
        self._distributions[point.name] = origin
        try:
            self._manager.register(point.load(), name=point.name)
            self._manager.check_pending()
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises must name it and stop the start
            raise StartupError(f"plugin {point.name} ({origin}): {_sentence(error)}") from error

    def _collect(
        self,
        hook: str,
        name_of: Callable[[Any], str] | None,
        aliases_of: Callable[[Any], Iterable[str]] = lambda _: (),
    ) -> dict[str, Any]:
        """Return what all plugins register with a hook, by name; no name or alias may be given twice."""
        out: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            plugin = impl.plugin_name

            def register(*given: Any, plugin: str = plugin) -> None:
                name, value = (name_of(given[0]), given[0]) if name_of else (given[0], given[1])
                for one in (name, *aliases_of(value)):
                    if not isinstance(one, str) or not one.isprintable() or not one:
                        raise ValueError(f"{hook} got something without a printable name: {value!r}")
                    if one in owners:
                        raise ValueError(f"{hook}: plugin {owners[one]} already registers the name {one!r}")
                    owners[one] = plugin
                out[name] = value

            try:
                impl.function(*([register] if impl.argnames else []))
            except Exception as error:  # as above
                raise StartupError(f"plugin {plugin} ({self._distributions[plugin]}): {_sentence(error)}") from error
        return out

    def add_cli_commands(self, group: click.Group) -> None:
        """Let every plugin add its verbs to the command line; raises StartupError for one that is taken."""
        import click

        for impl in self._manager.hook.register_cli_commands.get_hookimpls():
            own = click.Group()
            self._call(impl, group=own)
            for name, command in own.commands.items():
                if name in group.commands:
                    raise StartupError(f"plugin {impl.plugin_name}: there is a command {name!r} already")
                group.add_command(command, name)

    def startup(self, data_dir: Path) -> None:
        """Tell every plugin that the daemon is about to listen."""
        for impl in self._manager.hook.startup.get_hookimpls():
            self._call(impl, data_dir=data_dir)

    def shutdown(self) -> list[str]:
        """Tell every plugin that the daemon has stopped; return what those said that failed to take it."""
        said = []
        for impl in self._manager.hook.shutdown.get_hookimpls():
            try:
                impl.function()
            except Exception as error:  # the daemon has stopped well all the same
                said.append(f"plugin {impl.plugin_name}: shutdown failed: {_sentence(error)}")
        return said

    @staticmethod
    def _call(impl: pluggy.HookImpl, **given: Any) -> None:
        try:
            impl.function(**{name: given[name] for name in impl.argnames})
        except Exception as error:  # as above
            hook = impl.function.__name__
            raise StartupError(f"plugin {impl.plugin_name}: {hook} failed: {_sentence(error)}") from error

    def listing(self) -> list[dict[str, str]]:
        """Return one row a plugin, for `reflexd plugins list`."""
        rows = []
        for name, origin in self._distributions.items():
            plugin = self._manager.get_plugin(name)
            hooks = sorted({caller.name for caller in self._manager.get_hookcallers(plugin) or []})
            rows.append({"name": name, "from": origin, "hooks": ", ".join(hooks)})
        return rows


def _load_order(point: EntryPoint) -> tuple[bool, str]:
    """Ours first, then by name: where two take one name, the stranger is told."""
    return point.dist is None or point.dist.name != "reflexd", point.name


def _sentence(error: BaseException) -> str:
    if isinstance(error, ImportError):
        return f"cannot be imported: {error}"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
