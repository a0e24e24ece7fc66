"""The configuration: one TOML file, checked completely before anything acts on it.

Every problem is one line that names the file, the key and the nearest right name. Relative paths are relative to the file.
What stands below `[plugin.x]` is checked by that plugin's own `Config` when the plugin is loaded, except the two reserved keys
`on_error` and `time_limit`.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from postward.config_errors import ConfigErrors, Problem, explain, nearest, quoted
from postward.config_file import find, read
from postward.names import Domain

STATE: Final = Path("/var/lib/postward")

__all__ = ["Config", "ConfigErrors", "PluginSettings", "find", "from_dict", "load", "secret"]


def _relative_to_file(value: Path, info: ValidationInfo) -> Path:
    """Paths mean the same wherever the program is started."""
    base: Path = (info.context or {}).get("base") or Path.cwd()
    if "\0" in str(value):
        raise ValueError("holds a NUL character")
    try:
        return Path(os.path.normpath(base / value.expanduser()))
    except RuntimeError:
        raise ValueError(f"starts with {value.parts[0]!r}, and that user has no home directory here") from None


def _only_text(value: object) -> object:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("should be a path in quotes")
    return value


FilePath = Annotated[Path, BeforeValidator(_only_text), AfterValidator(_relative_to_file)]
Port = Annotated[int, Field(ge=1, le=65535)]
StrictPort = Annotated[int, Field(strict=True, ge=1, le=65535)]
# user:password@, host, port, /name, ?options, as SQLAlchemy takes it apart: only the port can break it.
_POSTGRESQL_REST: Final = re.compile(r"(?:[^:/]*(?::[^@]*)?@)?(?:\[[^/?\]]+\]|[^/:?\[]*)(?::\d{0,5})?(?:/[^?]*)?(?:\?.*)?")


def _bind(value: str) -> str:
    """`host:port`, `[v6]:port` or `unix:/path`."""
    if value.startswith("unix:/"):
        return value
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):(\d{1,5})", value)
    if match is None or int(match[2]) > 65535:
        raise ValueError("should be 'address:port', '[IPv6 address]:port' or 'unix:/path'")
    return value


Bind = Annotated[str, AfterValidator(_bind)]


def _selector(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", value) is None:
        raise ValueError("should be letters, digits, '.', '_' and '-', at most 63, such as '2026a'")
    return value


class Section(BaseModel):
    """A table of the file: unknown keys are errors, nothing is changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _hostname() -> Domain:
    name = socket.getfqdn()
    try:
        return Domain(name)
    except ValueError:
        raise ValueError(f"needs a hostname: this machine's name {name!r} is no domain name") from None


def _no_address(name: Domain) -> Domain:
    """RFC 1123 §2.1: no top-level name is all digits, so a name that ends in a number is an address in a name's place."""
    if name.is_literal or name.labels[-1].isdecimal():
        raise ValueError("should be a name such as 'mx1.example.net', not an address")
    return name


def _network(value: object) -> IPv4Network | IPv6Network:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError("should be text in quotes")
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError("should be a network such as '127.0.0.0/8' or '::1/128', without host bits") from None


LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
Network = Annotated[IPv4Network | IPv6Network, PlainValidator(_network)]


class CoreConfig(Section):
    """Who this host is and where it keeps things.

    `hostname` defaults to the machine's full name, `node` to `hostname`, `data_dir` to /var/lib/postward where that can be
    written and else to `postward-data` beside the file, `database` to an SQLite file in `data_dir`.
    """

    hostname: Annotated[Domain, AfterValidator(_no_address)]
    data_dir: FilePath
    database: str = Field(default="", repr=False)
    node: Annotated[str, Field(max_length=255)] = ""

    @field_validator("database")
    @classmethod
    def _known_database(cls, value: str, info: ValidationInfo) -> str:
        value = secret(value)
        scheme, colons, rest = value.partition("://")
        if not value:
            return f"sqlite:///{info.data['data_dir']}/results.db" if "data_dir" in info.data else ""
        if colons and scheme == "sqlite":
            path = rest.removeprefix("/")
            if "?" in path:
                raise ValueError("takes no options behind a '?'")
            return f"sqlite:///{_relative_to_file(Path(path), info)}" if path and path != ":memory:" else value
        if colons and scheme in ("postgresql", "postgres", "postgresql+psycopg"):
            if _POSTGRESQL_REST.fullmatch(rest) is None:
                raise ValueError("should look like 'postgresql://user:password@host:port/name'")
            return f"postgresql+psycopg://{rest}"
        raise ValueError("should start with 'sqlite:///' or 'postgresql://'")

    @field_validator("node")
    @classmethod
    def _named_node(cls, value: str, info: ValidationInfo) -> str:
        return value or str(info.data.get("hostname", ""))

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: object) -> object:
        if not isinstance(data, dict):
            return data
        # The validators of these run on defaults, too: a default may be relative, depend on another key, or not exist.
        filled = {"data_dir": _default_data_dir(), "database": "", "node": "", **data}
        return filled if "hostname" in data else {"hostname": _hostname(), **filled}


def _default_data_dir() -> Path:
    parent = STATE if STATE.exists() else STATE.parent
    return STATE if os.access(parent, os.W_OK | os.X_OK) else Path("postward-data")


class SelfTestConfig(Section):
    """Names that are asked at start to see whether the resolver validates: a signed one, and a forged one; "" skips."""

    secure: str = "org."
    bogus: str = "dnssec-failed.org."


class DnsConfig(Section):
    """How names are resolved. Without `nameservers`, as resolv.conf says. `timeout` is seconds for one question."""

    nameservers: tuple[str, ...] = ()
    trust_ad: Literal["loopback", "always", "never"] = "loopback"
    self_test: SelfTestConfig = SelfTestConfig()
    timeout: Annotated[float, Field(strict=True, gt=0, le=300)] = 30.0


class TlsConfig(Section):
    """The certificates to trust; the system's bundle by default."""

    ca_file: FilePath | None = None


class NetConfig(Section):
    """For a lab: `port_map` dials another port instead, such as `{ 25 = 20025 }`."""

    # Keys of a table are text, so only the value can be held to its type.
    port_map: dict[Port, StrictPort] = {}


class DeliveryConfig(Section):
    """What every delivery needs, whatever the policies say, and how hard the queue tries.

    `workers` processes share `connections`, of which one destination gets at most `connections_per_destination`.
    """

    min_tls: Literal["opportunistic", "required"] = "opportunistic"
    workers: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    connections: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 400
    connections_per_destination: Annotated[int, Field(strict=True, ge=1, le=1000)] = 10
    expire_hours: Annotated[float, Field(strict=True, gt=0, le=24 * 365)] = 120.0
    delay_notice_hours: Annotated[float, Field(strict=True, gt=0, le=24 * 365)] = 4.0


class ReportsConfig(Section):
    """Who reports come from, and whether they may go to private addresses.

    `submitter` defaults to the configured DKIM domain above `hostname`.
    """

    submitter: Domain | None = None
    private_addresses: StrictBool = False


class DkimConfig(Section):
    """One signing key: `key_file` is PEM."""

    domain: Domain
    selector: Annotated[str, AfterValidator(_selector)]
    key_file: FilePath


class ListenConfig(Section):
    """One listener. Clients in `networks` may send without logging in; on a Unix socket everybody who can open it may.

    A certificate makes it offer STARTTLS; `tls = "required"` takes no mail without it, `"implicit"` begins with the handshake
    (RFC 8314). `users_file` lets those in it log in, over TLS. A client is one IPv4 address or one IPv6 /64.
    """

    kind: Literal["smtp", "submission", "lmtp"]
    bind: Bind
    networks: tuple[Network, ...] = LOOPBACK
    tls: Literal["starttls", "required", "implicit"] = "starttls"
    cert_file: FilePath | None = None
    key_file: FilePath | None = None
    users_file: FilePath | None = None
    max_message_bytes: Annotated[int, Field(strict=True, ge=65_536, le=2**40)] = 50 * 1024 * 1024
    max_recipients: Annotated[int, Field(strict=True, ge=100, le=100_000)] = 1000
    max_clients: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 5000
    max_per_client: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 500

    @model_validator(mode="after")
    def _fits_together(self) -> ListenConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        if self.tls != "starttls" and self.cert_file is None:
            raise ValueError(f"tls = {self.tls!r} needs cert_file and key_file")
        if self.users_file is not None and self.cert_file is None:
            raise ValueError("users_file needs cert_file and key_file: passwords are only taken over TLS")
        return self


def _deliver_to(value: str, info: ValidationInfo) -> str:
    """`maildir:PATH`, `lmtp:unix:/path`, `lmtp:host:port` or `smtp:host:port`."""
    kind, colon, rest = value.partition(":")
    if kind == "maildir" and rest:
        return f"maildir:{_relative_to_file(Path(rest), info)}"
    if not (kind in ("lmtp", "smtp") and colon and (kind == "lmtp" or not rest.startswith("unix:"))):
        raise ValueError("should be 'maildir:/path', 'lmtp:unix:/path', 'lmtp:host:port' or 'smtp:host:port'")
    return f"{kind}:{_bind(rest)}"


class InboundConfig(Section):
    """What becomes of mail to the addresses that reports come to, behind the look at the reports.

    `deliver_to` is a Maildir (of at most `max_bytes`) or a server; by default a Maildir in `data_dir`. A client that may not
    relay can bring `per_minute` messages.
    """

    deliver_to: Annotated[str, AfterValidator(_deliver_to)] | None = None
    max_bytes: Annotated[int, Field(strict=True, ge=1 << 20)] = 1 << 30
    per_minute: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 60


class WebCertificate(Section):
    """A certificate for HTTPS, shown to who asks for a name in it."""

    cert_file: FilePath
    key_file: FilePath


def _token(value: str) -> str:
    found = secret(value)
    if value and (len(found) < 16 or not found.isascii() or not found.isprintable() or " " in found):
        raise ValueError("should be at least 16 characters of ASCII without spaces")
    return found


class WebConfig(Section):
    """Where web pages are served.

    `bind` is for this machine, or for a proxy on it. `public` is for strangers: the policies of MTA-STS and the place where
    reports are posted, over HTTPS with the `certificates`, in clear without. `/metrics` is for this machine; with a
    `metrics_token` (itself, or `env:NAME`) it is for who brings that, from wherever it can be reached.

    Those in `users` may log in to see the operator's pages and to change things there; `readers` of them may only see.
    Without it everybody on this machine may see, and nobody change. `hosts` are the names under which a proxy on this machine
    offers the pages over HTTPS.
    """

    bind: Bind = "127.0.0.1:8460"
    users: FilePath | None = None
    readers: tuple[str, ...] = ()
    hosts: tuple[Domain, ...] = ()
    public: Bind | None = None
    certificates: tuple[WebCertificate, ...] = ()
    metrics_token: Annotated[str, AfterValidator(_token)] = Field(default="", repr=False)

    @model_validator(mode="after")
    def _hosts_need_users(self) -> WebConfig:
        if self.hosts and self.users is None:
            raise ValueError("hosts needs users: what a proxy offers to others is not for everybody")
        if self.readers and self.users is None:
            raise ValueError("readers needs users, in which they are")
        return self


class LogConfig(Section):
    """How much of its log each process keeps in `data_dir`, for `postward logs`: bytes in all its files; 0 keeps nothing."""

    keep_bytes: Annotated[int, Field(strict=True, ge=0, le=2**40)] = 100 * 1024 * 1024

    @field_validator("keep_bytes")
    @classmethod
    def _nothing_or_enough(cls, value: int) -> int:
        if 0 < value < 1024 * 1024:
            raise ValueError("should be 0 or at least 1048576")
        return value


class PluginSettings(Section):
    """What core itself reads in `[plugin.x]`: what a failure means, and a lower limit for calls, in seconds."""

    on_error: Literal["defer", "ignore"] = "defer"
    time_limit: Annotated[float, Field(strict=True, gt=0, le=3600)] | None = None


class Config(Section):
    """The whole file. `plugin` holds what stands below `[plugin.x]`, as it stands there; `file` is None without a file."""

    plugins: tuple[str, ...] = ()
    core: CoreConfig
    dns: DnsConfig = DnsConfig()
    tls: TlsConfig = TlsConfig()
    net: NetConfig = NetConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    reports: ReportsConfig = ReportsConfig()
    dkim: tuple[DkimConfig, ...] = ()
    listen: tuple[ListenConfig, ...] = ()
    inbound: InboundConfig = InboundConfig()
    web: WebConfig = WebConfig()
    log: LogConfig = LogConfig()
    plugin: dict[str, dict[str, Any]] = Field(default={}, repr=False)
    file: Path | None = Field(default=None, exclude=True)

    @field_validator("plugins")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if value.count(name) > 1:
                raise ValueError(f"names {name[:64]!r} twice")
        return value

    def settings_for(self, plugin: str) -> PluginSettings:
        """The reserved keys of a plugin's table. Raises `ConfigError`."""
        table = {key: value for key, value in self.plugin.get(plugin, {}).items() if key in PluginSettings.model_fields}
        try:
            return PluginSettings.model_validate(table)
        except ValidationError as exc:
            raise ConfigErrors(str(self.file or ""), explain(exc, PluginSettings, prefix=f"plugin.{plugin}")) from None

    def table_for(self, plugin: str) -> dict[str, Any]:
        """The plugin's own keys of its table."""
        return {key: value for key, value in self.plugin.get(plugin, {}).items() if key not in PluginSettings.model_fields}


def load(path: Path | str | None = None) -> Config:
    """Read and check a file; without `path`, the one that `find` finds. Raises `ConfigError`."""
    file = find(path)
    return from_dict(read(file), file=file)


def from_dict(data: Mapping[str, Any], *, file: Path | None = None) -> Config:
    """Check tables that are already read. Relative paths are relative to `file`, else to the working directory.

    Raises `ConfigError`; of several problems, one line each.
    """
    base = file.absolute().parent if file else Path.cwd()
    problems = _misplaced(data)
    try:
        config = Config.model_validate({"core": {}, **data, "file": file}, context={"base": base})
    except ValidationError as exc:
        problems = [*explain(exc, Config), *problems]
    if "file" in data:
        problems.append(Problem(key="file", message="is not a key of this file"))
    if problems:
        raise ConfigErrors(str(file or ""), problems)
    return config


def _misplaced(data: Mapping[str, Any]) -> list[Problem]:
    """Tables for plugins that are not enabled: a typing error, or a policy that somebody believes to be in force."""
    enabled, tables = data.get("plugins", ()), data.get("plugin", {})
    if not isinstance(enabled, list | tuple) or not isinstance(tables, Mapping):
        return []
    return [
        Problem(
            key=f"plugin.{quoted(name)}", message="is for a plugin that is not enabled", hint=nearest(name, map(str, enabled))
        )
        for name in tables
        if name not in enabled
    ]


def secret(value: str, file: Path | None = None) -> str:
    """A secret as it may be configured: itself, `env:NAME` for an environment variable, or the first line of `file`.

    Raises `ValueError` when it cannot be had, with a text that does not contain it.
    """
    if file is not None:
        try:
            return file.read_text().partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise ValueError(f"{file} cannot be read: {getattr(exc, 'strerror', None) or 'it is not text'}") from None
    if value.startswith("env:"):
        name = value.removeprefix("env:")
        if name not in os.environ:
            raise ValueError(f"the environment variable {name} is not set")
        return os.environ[name]
    return value
