"""`postward dkim`: make signing keys, and show what to publish for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from postward.cli.output import emit_json_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from postward.dkim import SigningKey

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per key.")]


def register(app: typer.Typer) -> None:
    """Add the commands below `dkim`."""
    group = typer.Typer(help="Make DKIM keys, and show the DNS records to publish for them.", no_args_is_help=True)
    group.command()(generate)
    group.command()(records)
    app.add_typer(group, name="dkim")


def generate(
    domain: Annotated[str, typer.Argument(help="The domain that signs.", show_default=False)],
    selector: Annotated[
        str, typer.Option(help="Name of the key in DNS. With two keys, -rsa and -ed25519 are added.", show_default="the date")
    ] = "",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where the keys are kept.", show_default="dkim below data_dir")
    ] = None,
    rsa: Annotated[bool, typer.Option("--rsa", help="Only an RSA key (2048 bits).")] = False,
    ed25519: Annotated[bool, typer.Option("--ed25519", help="Only an Ed25519 key.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Make an RSA and an Ed25519 key for a domain, and print what goes into the configuration and into DNS.

    Keep both: not everybody verifies Ed25519. Keys are written for their owner only, and never overwritten.
    """
    import tomli_w

    from postward.dkim import SigningKey
    from postward.dkim import generate as make
    from postward.dkim.keyfile import SELECTOR, KeyExists, checked, path_for, write_key
    from postward.names import Domain

    wanted: dict[Literal["rsa", "ed25519"], bool] = {"rsa": rsa or not ed25519, "ed25519": ed25519 or not rsa}
    kinds = [kind for kind, made in wanted.items() if made]
    name = Domain(domain)
    base = selector or _today()
    folder = (directory or _default_directory(config)).absolute()
    keys: list[SigningKey] = []
    for kind in kinds:
        called = f"{base}-{kind}" if len(kinds) > 1 else base
        if SELECTOR.fullmatch(called) is None:
            raise typer.BadParameter("should be letters, digits, dots and hyphens, at most 63", param_hint="--selector")
        keys.append(checked(SigningKey(domain=name, selector=called, key=make(kind))))
    taken = [path for path in (path_for(key, folder) for key in keys) if os.path.lexists(path)]
    if taken:
        raise KeyExists(f"{taken[0]} exists, and a key is never overwritten: choose another --selector")
    files = [write_key(key, folder) for key in keys]
    tables = [
        {"domain": str(key.domain), "selector": key.selector, "key_file": str(file)}
        for key, file in zip(keys, files, strict=True)
    ]
    if json:
        for key, table in zip(keys, tables, strict=True):
            emit_json_line({**table, **_shape(key)})
        return
    typer.echo(f"# Made {' and '.join(str(file) for file in files)}.\n# For the configuration, once the records are in DNS:\n")
    typer.echo(tomli_w.dumps({"dkim": tables}, multiline_strings=False))
    typer.echo(_zone(keys), nl=False)


def records(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Print the DNS records of the configured keys, as lines of a zone file; exits 1 when there are no keys."""
    from postward.config import load
    from postward.dkim.configured import load_keys

    settings = load(config)
    keys = load_keys(settings)
    if not keys:
        typer.echo(f"No DKIM keys are configured in {settings.file}; `postward dkim generate` makes some.", err=True)
        raise typer.Exit(1)
    if json:
        for key, entry in zip(keys, settings.dkim, strict=True):
            shape = {"domain": str(key.domain), "selector": key.selector, "key_file": str(entry.key_file)}
            emit_json_line({**shape, **_shape(key)})
        return
    typer.echo(_zone(keys), nl=False)


def _shape(key: SigningKey) -> dict[str, Any]:
    from postward.dkim import dns_record
    from postward.dkim.keyfile import record_value, zone_line

    return {
        "algorithm": key.algorithm,
        "name": str(dns_record(key)[0]),
        "type": "TXT",
        "value": record_value(key),
        "zone": zone_line(key),
    }


def _zone(keys: Sequence[SigningKey]) -> str:
    """Text for a zone file: everything that is no record is a comment."""
    from postward.dkim import dns_record
    from postward.dkim.keyfile import record_value, zone_line

    lines = ["; For a zone file:", *(zone_line(key) for key in keys)]
    lines += ["", "; The same for a form that takes a TXT record as one value:"]
    for key in keys:
        lines += [f"; {dns_record(key)[0]}", f";   {record_value(key)}"]
    return "\n".join([*lines, ""])


def _today() -> str:
    from datetime import UTC, datetime

    return f"{datetime.now(UTC):%Y%m%d}"


def _default_directory(config: Path | None) -> Path:
    """`dkim` below the data directory of the configuration, or of the defaults where there is no configuration."""
    from postward.config import from_dict, load
    from postward.config_file import find
    from postward.errors import ConfigError

    if config is None:
        try:
            find()
        except ConfigError:
            return from_dict({}).core.data_dir / "dkim"
    return load(config).core.data_dir / "dkim"
