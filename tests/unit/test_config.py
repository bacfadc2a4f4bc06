"""Shows which value wins, that its origin is told, and that a wrong key is named with its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflexd.config import Config, load_config
from reflexd.errors import StartupError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "reflexd.toml"
    path.write_text('[http]\nport = 1111\nhost = "::1"\n[plugins]\nallow = ["inline"]\n')
    return path


def test_flag_beats_env_beats_file_beats_default(file: Path) -> None:
    env = {"REFLEXD_HTTP__PORT": "2222", "REFLEXD_TRAINING__SLOTS": "7"}
    config, origins = load_config({"http.port": 3333, "http.host": None}, env, file)
    assert (config.http.port, config.http.host, config.training.slots) == (3333, "::1", 7)
    assert config.plugins.allow == ["inline"]
    assert config.predict == Config().predict
    assert origins["http.port"] == "flag --port"
    assert origins["http.host"] == f"file {file}"
    assert origins["training.slots"] == "env REFLEXD_TRAINING__SLOTS"
    assert origins["predict.queue"] == "default"


def test_env_lists_and_secret_files(tmp_path: Path, file: Path) -> None:
    secret = tmp_path / "host"
    secret.write_text("127.0.0.2\n")
    env = {"REFLEXD_PLUGINS__ALLOW": "inline, checkpoints", "REFLEXD_HTTP__HOST_FILE": str(secret)}
    config, origins = load_config(env=env, file=file)
    assert config.plugins.allow == ["inline", "checkpoints"]
    assert config.http.host == "127.0.0.2"
    assert origins["http.host"] == "env REFLEXD_HTTP__HOST_FILE"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[http]\nprot = 1", "prot` - at `$.http"),
        ("[htpp]\nport = 1", "htpp"),
        ('[http]\nport = "1"', "$.http.port"),
        ("[http]\nport = 99999", "$.http.port"),
        ('[log]\nformat = "xml"', "$.log.format"),
        ("[http\n", "reflexd.toml"),
    ],
)
def test_a_wrong_file_is_told_with_file_and_path(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "reflexd.toml"
    path.write_text(text)
    with pytest.raises(StartupError) as caught:
        load_config(env={}, file=path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("REFLEXD_HTTP__PROT", "1", "no key `http.prot`"),
        ("REFLEXD_NOPE__PORT", "1", "no key `nope.port`"),
        ("REFLEXD_HTTP__PORT", "many", "http.port"),
        ("REFLEXD_HTTP__HOST_FILE", "/proc/no-such-file", "cannot read"),
    ],
)
def test_a_wrong_variable_is_told_with_its_name(name: str, value: str, said: str) -> None:
    with pytest.raises(StartupError) as caught:
        load_config(env={name: value})
    assert name in str(caught.value)
    assert said in str(caught.value)


NO_HOST_NAMES = ["", ".", "*.example.com", "a:80", "http://a", "a/b", "a..b", "a.", "ä.de", "a@b", "::1"]


@pytest.mark.parametrize("entry", NO_HOST_NAMES)
def test_an_allowed_host_that_no_header_could_match_is_told(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "reflexd.toml"
    path.write_text(f'[http]\nallowed_hosts = ["fine.example", "{entry}"]', encoding="utf-8")
    with pytest.raises(StartupError, match=r"allowed_hosts: .* is no host name") as caught:
        load_config(env={}, file=path)
    assert repr(entry) in str(caught.value)
    assert "$.http" in str(caught.value)


def test_allowed_hosts_from_the_environment() -> None:
    config, _ = load_config(env={"REFLEXD_HTTP__ALLOWED_HOSTS": "Reflex.example, .corp.example"})
    assert config.http.allowed_hosts == ["Reflex.example", ".corp.example"]
    with pytest.raises(StartupError, match="allowed_hosts"):
        load_config(env={"REFLEXD_HTTP__ALLOWED_HOSTS": "*"})


def test_a_named_file_must_exist() -> None:
    with pytest.raises(StartupError, match="there is no file"):
        load_config(env={"REFLEXD_CONFIG": "/proc/no-such-file"})


def test_both_a_value_and_its_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "host").write_text("::1")
    with pytest.raises(StartupError, match="both"):
        load_config(env={"REFLEXD_HTTP__HOST": "::1", "REFLEXD_HTTP__HOST_FILE": str(tmp_path / "host")})


def test_a_user_without_a_home_has_no_file_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert load_config(env={})[0].http.port == Config().http.port
