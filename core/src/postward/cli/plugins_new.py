"""`postward plugins new`: a package to begin from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from postward.errors import PostwardError


def new(
    name: Annotated[str, typer.Argument(help="The name of the plugin, such as `long_lived`.", show_default=False)],
    into: Annotated[Path, typer.Option("--into", help="The folder to write the package into.")] = Path(),
) -> None:
    """Write a package for a new plugin: it conforms, and its tests pass, before you change a line."""
    from postward.plugins import check_name
    from postward.scaffold import package

    check_name(name)
    folder = into / f"postward-{name.replace('_', '-')}"
    if folder.exists():
        raise PostwardError(f"{folder} is there already; nothing was written")
    for path, text in package(name).items():
        file = folder / path
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        except OSError as exc:
            raise PostwardError(f"{file} cannot be written: {exc.strerror}") from exc
    typer.echo(f"Wrote {folder}. Next:")
    typer.echo(f"  cd {folder}")
    typer.echo("  python -m pip install -e '.[test]'")
    typer.echo("  python -m pytest")
    typer.echo(f"  postward plugins enable {name}")
