"""The configuration: every problem is one line with file, key and the nearest right name, and nothing is accepted by guess."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from postward.config import Config, ConfigErrors, find, from_dict, load, secret
from postward.errors import ConfigError
from postward.names import Address, Domain

WHOLE = """
plugins = ["dane", "mtasts"]
[core]
hostname = "MX1.Example.NET"
data_dir = "state"
[dns]
nameservers = ["127.0.0.1:53"]
trust_ad = "always"
self_test = { secure = "org.", bogus = "" }
timeout = 5
[tls]
ca_file = "/etc/ssl/certs/ca-certificates.crt"
[net]
port_map = { 25 = 20025 }
[delivery]
min_tls = "required"
workers = 2
[reports]
submitter = "bücher.example"
[[dkim]]
domain = "example.net"
selector = "s1"
key_file = "keys/s1.pem"
[[listen]]
kind = "smtp"
bind = "127.0.0.1:2525"
networks = ["127.0.0.0/8", "::1/128"]
[[listen]]
kind = "lmtp"
bind = "unix:/run/postward/lmtp.sock"
[web]
bind = "[::1]:8460"
[plugin.dane]
on_error = "ignore"
time_limit = 10
colour = "red"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "postward.toml"
    path.write_text(WHOLE)
    return path


def complaint(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(data)
    return str(caught.value)


def test_the_whole_file(file: Path) -> None:
    config = load(file)
    assert config.plugins == ("dane", "mtasts")
    assert config.core.hostname == "mx1.example.net"
    assert config.core.node == "mx1.example.net"
    assert config.core.data_dir == file.parent / "state"
    assert config.core.database == f"sqlite:///{file.parent}/state/results.db"
    assert config.dns.self_test.bogus == ""
    assert config.net.port_map == {25: 20025}
    assert config.reports.submitter == "xn--bcher-kva.example"
    assert config.dkim[0].key_file == file.parent / "keys/s1.pem"
    assert str(config.listen[0].networks[1]) == "::1/128"
    assert config.file == file


def test_reserved_keys_are_cores_and_the_rest_the_plugins(file: Path) -> None:
    config = load(file)
    assert config.settings_for("dane").on_error == "ignore"
    assert config.settings_for("dane").time_limit == 10
    assert config.table_for("dane") == {"colour": "red"}
    assert config.settings_for("mtasts").on_error == "defer"


def test_defaults_are_usable() -> None:
    config = from_dict({})
    assert config.plugins == ()
    assert config.core.data_dir.is_absolute()
    assert config.core.database.startswith("sqlite:////")
    assert config.dns.trust_ad == "loopback"


def test_data_dir_falls_back_to_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert from_dict({}, file=tmp_path / "postward.toml").core.data_dir == tmp_path / "postward-data"


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "postward.toml").write_text('[core]\ndatabase = "sqlite:///r.db"\n[tls]\nca_file = "../ca.pem"\n')
    monkeypatch.chdir(tmp_path)
    config = load("etc/postward.toml")
    assert config.core.database == f"sqlite:///{tmp_path}/etc/r.db"
    assert config.tls.ca_file == tmp_path / "ca.pem"


def listener(**entry: Any) -> dict[str, Any]:
    return {"listen": [{"kind": "smtp", "bind": "127.0.0.1:25", **entry}]}


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"pluginss": []}, "pluginss: is not a known key; did you mean 'plugins'?"),
        ({"hostname": "a.example"}, "hostname: is not a known key; did you mean 'core.hostname'?"),
        ({"core": {"hostnam": "a.example"}}, "core.hostnam: is not a known key; did you mean 'hostname'?"),
        ({"dns": {"self_test": {"secur": ""}}}, "dns.self_test.secur: is not a known key; did you mean 'secure'?"),
        (
            {"delivery": {"min_tls": "require"}},
            "delivery.min_tls: should be 'opportunistic' or 'required', not 'require'; did you mean 'required'?",
        ),
        ({"delivery": {"workers": "3"}}, "delivery.workers: should be a whole number, not text"),
        ({"delivery": {"workers": True}}, "delivery.workers: should be a whole number, not true or false"),
        ({"delivery": {"workers": 0}}, "delivery.workers: should be greater than or equal to 1"),
        ({"plugins": "dane"}, "plugins: should be a list [...], not text"),
        ({"plugins": ["dane", 3]}, "plugins[1]: should be text in quotes, not a whole number"),
        ({"plugins": ["dane", "dane"]}, "plugins: names 'dane' twice"),
        ({"core": 3}, "core: should be a table, not a whole number"),
        ({"core": {"hostname": "a..b"}}, "core.hostname: not a domain name: 'a..b'"),
        ({"core": {"hostname": 3}}, "core.hostname: should be text in quotes"),
        ({"core": {"data_dir": ""}}, "core.data_dir: should be a path in quotes"),
        ({"reports": {"private_addresses": "yes"}}, "reports.private_addresses: should be true or false, not text"),
        ({"listen": [{"kind": "smtp", "bind": "25"}]}, "listen[0].bind: should be 'address:port', "),
        ({"listen": [{"bind": "a:25"}]}, "listen[0].kind: is missing"),
        (
            {"listen": [{"kind": "smtp", "bind": "a:25", "networks": ["10.0.0.1/8"]}]},
            "listen[0].networks[0]: should be a network such as",
        ),
        ({"listen": [{"kind": "smtp", "bind": "a:25", "key_file": "k"}]}, "listen[0]: cert_file and key_file go together"),
        ({"net": {"port_map": {"smtp": 3}}}, "net.port_map.smtp: should be a whole number, not text"),
        ({"plugins": ["dane"], "plugin": {"dan": {}}}, "plugin.dan: is for a plugin that is not enabled; did you mean 'dane'?"),
        ({"plugins": ["x"], "plugin": {"x": 3}}, "plugin.x: should be a table, not a whole number"),
        ({"file": "x"}, "file: is not a key of this file"),
        ({"": 1}, '"": is not a known key'),
        ({"a\nb": 1}, r'"a\nb": is not a known key'),
        ({"dns": {"a.b": 1}}, 'dns."a.b": is not a known key'),
        ({"x" * 5000: 1}, "is not a known key"),
        ({"plugin": {"a b": {}}}, 'plugin."a b": is for a plugin that is not enabled'),
        ({"core": {"hostname": "192.0.2.1"}}, "core.hostname: should be a name such as"),
        ({"core": {"hostname": "[192.0.2.1]"}}, "core.hostname: should be a name such as"),
        ({"core": {"data_dir": "a\0b"}}, "core.data_dir: holds a NUL character"),
        ({"core": {"data_dir": "~no-such-user/x"}}, "core.data_dir: starts with '~no-such-user', and that user has no home"),
        ({"core": {"database": "sqlite:///a\0b"}}, "core.database: holds a NUL character"),
        ({"core": {"database": "sqlite:///a.db?mode=ro"}}, "core.database: takes no options"),
        ({"core": {"database": "postgresql://u:p@h:port/n"}}, "core.database: should look like 'postgresql://"),
        ({"core": {"database": "postgresql://u:p@[::1"}}, "core.database: should look like 'postgresql://"),
        ({"net": {"port_map": {"25": True}}}, "net.port_map.25: should be a whole number, not true or false"),
        ({"delivery": {"workers": 1.5}}, "delivery.workers: should be a whole number, not a number with a point"),
        ({"delivery": {"workers": 65}}, "delivery.workers: should be less than or equal to 64"),
        ({"delivery": {"connections": 0}}, "delivery.connections: should be greater than or equal to 1"),
        ({"delivery": {"connections": 10_001}}, "delivery.connections: should be less than or equal to 10000"),
        ({"delivery": {"connections_per_destination": 0}}, "delivery.connections_per_destination: should be greater than or"),
        ({"delivery": {"expire_hours": 0.0}}, "delivery.expire_hours: should be greater than 0"),
        ({"delivery": {"expire_hours": 9000.0}}, "delivery.expire_hours: should be less than or equal to 8760"),
        ({"delivery": {"delay_notice_hours": -1.0}}, "delivery.delay_notice_hours: should be greater than 0"),
        ({"delivery": {"delay_notice_hours": "4"}}, "delivery.delay_notice_hours: should be a number, not text"),
        (listener(kind="pop3"), "listen[0].kind: should be 'smtp', 'submission' or 'lmtp', not 'pop3'"),
        (listener(bind="127.0.0.1:99999"), "listen[0].bind: "),
        (listener(bind="unix:"), "listen[0].bind: "),
        (listener(tls="implicit"), "listen[0]: tls = 'implicit' needs cert_file and key_file"),
        (listener(tls="required"), "listen[0]: tls = 'required' needs cert_file and key_file"),
        (listener(tls="none"), "listen[0].tls: should be 'starttls', 'required' or 'implicit', not 'none'"),
        (listener(cert_file="c"), "listen[0]: cert_file and key_file go together"),
        (listener(users_file="u"), "listen[0]: users_file needs cert_file and key_file: passwords are only taken over TLS"),
        (listener(max_message_bytes=65_535), "listen[0].max_message_bytes: should be greater than or equal to 65536"),
        (listener(max_message_bytes=2**40 + 1), "listen[0].max_message_bytes: should be less than or equal to"),
        (listener(max_recipients=99), "listen[0].max_recipients: should be greater than or equal to 100"),
        (listener(max_clients=0), "listen[0].max_clients: should be greater than or equal to 1"),
        (listener(max_per_client="1"), "listen[0].max_per_client: should be a whole number, not text"),
        (listener(networks=["::ffff:10.0.0.0/8"]), "listen[0].networks[0]: should be a network such as"),
        ({"web": {"bind": "8460"}}, "web.bind: should be 'address:port'"),
        ({"dkim": [{"domain": "a.b", "selector": "a b", "key_file": "k"}]}, "dkim[0].selector: should be letters, digits"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], line: str) -> None:
    text = complaint(data)
    assert line in text
    assert len(text.splitlines()) == 1
    assert len(text) < 300


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h:5432/n",
        "postgresql://u:p/w?x:y@[::1]:5432/n?sslmode=require",
        "postgresql:///n",
        "postgresql://h",
        "postgresql+psycopg:///n?host=/run/postgresql",
        "postgresql://%2Frun/n",
    ],
)
def test_urls_of_postgresql(url: str) -> None:
    rest = url.partition("://")[2]
    assert from_dict({"core": {"hostname": "a.example", "database": url}}).core.database == f"postgresql+psycopg://{rest}"


def test_several_problems_are_several_lines_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        from_dict({"delivery": {"workers": "3", "min_tls": 1}, "plugin": {"x": {}}}, file=tmp_path / "p.toml")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems) == 3
    assert all(line.startswith(f"{tmp_path}/p.toml: ") for line in lines)


def test_secrets_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB", "postgresql://u:hunter2@db/x")
    config = from_dict({"core": {"database": "env:DB"}, "plugins": ["p"], "plugin": {"p": {"token": "hunter2"}}})
    assert config.core.database == "postgresql+psycopg://u:hunter2@db/x"
    assert "hunter2" not in repr(config)
    assert "hunter2" not in complaint({"core": {"database": "mysql://u:hunter2@db/x"}})
    assert "hunter2" not in complaint({"core": {"node": ["hunter2"]}})


def test_secret_from_environment_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t")
    (tmp_path / "token").write_text("f\n")
    assert secret("env:TOKEN") == "t"
    assert secret("plain") == "plain"
    assert secret("", tmp_path / "token") == "f"
    with pytest.raises(ValueError, match="NOPE is not set"):
        secret("env:NOPE")
    with pytest.raises(ValueError, match="No such file"):
        secret("", tmp_path / "none")


def test_syntax_errors_have_line_and_column(file: Path) -> None:
    file.write_text('plugins = []\n[core\nhostname = "x"\n')
    with pytest.raises(ConfigError, match=r"postward\.toml: is not TOML: .*line 2, column 6"):
        load(file)


@pytest.mark.parametrize(
    "content",
    [
        b"x = \xff",
        b"x = " + b"[" * 100_000,
        b"#" * (1 << 20) + b"#",
        b"a = 1\na = 2",
        b"a = " + b"9" * 5000,
        b"\xef\xbb\xbfa = 1",
    ],
)
def test_unreadable_content_is_an_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"postward\.toml"):
        load(file)


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_unreadable_files_are_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path if kind == "directory" else tmp_path / "none.toml")


def test_the_file_is_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POSTWARD_CONFIG", raising=False)
    with pytest.raises(ConfigError, match="there is no configuration"):
        find()
    (tmp_path / "postward.toml").touch()
    assert find() == Path("postward.toml")
    monkeypatch.setenv("POSTWARD_CONFIG", "other.toml")
    assert find() == Path("other.toml")
    assert find("given.toml") == Path("given.toml")


def test_the_machines_name_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getfqdn", lambda: "my pc!")
    assert complaint({}).startswith("core: needs a hostname: this machine's name 'my pc!'")
    assert from_dict({"core": {"hostname": "a.example"}}).core.hostname == "a.example"


def test_nothing_is_changed_after_loading() -> None:
    config = from_dict({})
    with pytest.raises(ValueError, match="frozen"):
        config.plugins = ("x",)


def test_domain_and_address_are_field_types() -> None:
    class Options(BaseModel):
        domain: Domain
        contact: Address | None = None

    options = Options.model_validate({"domain": "Example.ORG.", "contact": "a@Example.org"})
    assert options.domain == "example.org"
    assert type(options.domain) is Domain
    assert options.contact == Address("a", Domain("example.org"))
    assert Options.model_validate({"domain": Domain("a.b")}).model_dump(mode="json") == {"domain": "a.b", "contact": None}
    with pytest.raises(ValueError, match="not a mail address"):
        Options.model_validate({"domain": "a.b", "contact": "nobody"})


toml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from([*Config.model_fields, "x", "", "plugin.x"]), toml_values, max_size=4),
)
def test_any_tables_are_taken_or_refused(data: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(from_dict(data), Config)
