"""`postward passwd`: set the password of a user of a listener or of the web pages, or remove the user."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from postward.errors import ConfigError, PostwardError

_LONGEST: Final = 8192

ConfigOption = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(passwd)


def passwd(
    user: Annotated[str, typer.Argument(metavar="USER", help="The name to log in with.", show_default=False)],
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="The file to change, by default the configured users_file.", show_default=False),
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the user.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read the password from a line of standard input.")] = False,
    config: ConfigOption = None,
) -> None:
    """Set a user's password. A running service takes it at the next login; no restart is needed.

    Exits 1 when there is no user to remove.
    """
    if delete and stdin:
        raise typer.BadParameter("--delete needs no password")
    place = file if file is not None else _configured(config)
    from postward.listen.users import remove_user, set_password

    if delete:
        removed = remove_user(place, user)
        typer.echo(f"{user} is removed from {place}." if removed else f"There is no user {user} in {place}.", err=not removed)
        raise typer.Exit(0 if removed else 1)
    password = _from_stdin() if stdin else _asked(user)
    fresh = not place.exists()
    new = set_password(place, user, password)
    typer.echo(f"{user} is {'added to' if new else 'changed in'} {place}.")
    if fresh:
        typer.echo(f"The file is new and readable by you alone ({place.owner()}); the service has to read it too.", err=True)


def _configured(config: Path | None) -> Path:
    """The one file that listeners and web pages have."""
    from postward.cli.site import settings

    configured = settings(config)
    named = [entry.users_file for entry in configured.listen] + [configured.web.users]
    files = list(dict.fromkeys(file for file in named if file is not None))
    if len(files) == 1:
        return files[0]
    where = str(configured.file or "")
    if files:
        raise ConfigError(f"names several users_file, choose one by --file: {', '.join(map(str, files))}", file=where)
    raise ConfigError("neither a listener has a users_file nor [web] users; add one, or name a file by --file", file=where)


def _from_stdin() -> str:
    line = sys.stdin.readline(_LONGEST)
    return line.removesuffix("\n").removesuffix("\r")


def _asked(user: str) -> str:
    """Ask twice, without an echo."""
    import getpass

    if not sys.stdin.isatty():
        raise PostwardError("standard input is no terminal to ask for the password at; give it by --stdin")
    first = getpass.getpass(f"New password for {user}: ")
    if first != getpass.getpass("Once more: "):
        raise PostwardError("the two differ; nothing is changed")
    return first
