"""Who may import whom, read from the source, so that the RFCs stay usable without trio and databases."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from postward.testing.sources import PUBLIC

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "core" / "src"
PLUGINS = sorted((ROOT / "plugins").glob("*/src/*"))
FOUNDATION = ("postward.names", "postward.model", "postward.errors")
DATABASE = ("sqlalchemy", "sqlmodel", "alembic")

GLUE = {"plugin.py", "tables.py", "received_tables.py", "shown_tables.py", "fetch.py"}
# Trio shells that are split from the glue. Name a new one here only when there is nothing in it that could be pure.
SHELLS = {"postward_dane/survey.py", "postward_tlsrpt/receiving.py", "postward_dmarc/receiving.py"} | {
    f"postward_mtasts/{name}.py" for name in ("discovery", "flight", "look", "refresh")
}
# Sans-IO modules of core, by name.
PURE_CORE = [
    "answers.py",
    "config.py",
    "config_edit.py",
    "config_errors.py",
    "config_file.py",
    "errors.py",
    "log.py",
    "names.py",
    "delivery/compose.py",
    "delivery/shape.py",
    "delivery/wish.py",
    "dkim/author.py",
    "dkim/canonical.py",
    "dkim/keyfile.py",
    "dkim/sign.py",
    "dkim/tags.py",
    "dns/answer.py",
    "dns/ede.py",
    "listen/addresses.py",
    "metrics/exposition.py",
    "metrics/own.py",
    "metrics/registry.py",
    "metrics/shared.py",
    "listen/pace.py",
    "listen/received.py",
    "queue/disk.py",
    "queue/outcome.py",
    "queue/retry.py",
    "queue/types.py",
    "reports/container.py",
    "reports/mime.py",
    "reports/receipt.py",
    "dns/wire.py",
    "smtp/content.py",
    "smtp/envelope.py",
    "smtp/incoming.py",
    "smtp/reply.py",
    "smtp/sasl.py",
    "smtp/server_commands.py",
    "smtp/settings.py",
    "smtp/syntax.py",
    "smtp/whole.py",
    "attention.py",
    "web/chart.py",
    "web/openapi.py",
    "web/origin.py",
    "web/page.py",
    "web/params.py",
    "web/places.py",
    "tls/certificates.py",
    "tls/path.py",
    "tls/patterns.py",
]


@dataclass(frozen=True)
class Import:
    """One import: the module, the names taken from it, and whether only type checkers see it."""

    module: str
    names: tuple[str, ...]
    typing_only: bool
    line: int


def imports(file: Path) -> list[Import]:
    tree = ast.parse(file.read_text())
    return list(_walk(tree, typing_only=False, package=_package(file)))


def _package(file: Path) -> str:
    parts = list(file.with_suffix("").parts)
    start = max(index for index, part in enumerate(parts) if part == "src") + 1
    return ".".join(parts[start:-1])


def _walk(node: ast.AST, *, typing_only: bool, package: str) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, (), typing_only, child.lineno)
        elif isinstance(child, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - child.level + 1]) if child.level else ""
            module = ".".join(part for part in (base, child.module or "") if part)
            yield Import(module, tuple(alias.name for alias in child.names), typing_only, child.lineno)
        else:
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield from _walk(child, typing_only=typing_only or guarded, package=package)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def inside(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def pure_files() -> list[Path]:
    core = [CORE / "postward" / name for name in PURE_CORE]
    core += files(CORE / "postward" / "dsn")
    core += files(CORE / "postward" / "model") + sorted((CORE / "postward" / "smtp").glob("*protocol*.py"))
    plugins = [file for plugin in PLUGINS for file in files(plugin) if file.name not in GLUE]
    plugins = [file for file in plugins if f"{file.parent.name}/{file.name}" not in SHELLS]
    return [file for file in core if file.exists()] + plugins


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_plugins_import_public_names_only_and_never_each_other(plugin: Path) -> None:
    others = tuple(other.name for other in PLUGINS if other != plugin)
    wrong = []
    for file in files(plugin):
        for one in imports(file):
            if inside(one.module, others):
                wrong.append(f"{name_of(file)}:{one.line} imports another plugin: {one.module}")
            if inside(one.module, ("postward",)):
                targets = {one.module} if not _is_package(one.module) else {one.module, *_submodules(one)}
                private = [target for target in targets if target not in PUBLIC]
                private += [name for name in one.names if name.startswith("_")]
                wrong += [f"{name_of(file)}:{one.line} imports {name}" for name in private]
    assert wrong == []


def _is_package(module: str) -> bool:
    return (CORE / Path(*module.split(".")) / "__init__.py").exists()


def _submodules(one: Import) -> set[str]:
    """Modules that are imported by `from package import module`."""
    folder = CORE / Path(*one.module.split("."))
    return {f"{one.module}.{name}" for name in one.names if (folder / f"{name}.py").exists() or (folder / name).is_dir()}


def test_the_foundation_imports_only_itself() -> None:
    folder = CORE / "postward"
    wrong = [
        f"{name_of(file)}:{one.line} imports {one.module}"
        for file in [folder / "names.py", folder / "errors.py", *files(folder / "model")]
        for one in imports(file)
        if inside(one.module, ("postward",)) and not inside(one.module, FOUNDATION)
    ]
    assert wrong == []


@pytest.mark.parametrize("file", pure_files(), ids=name_of)
def test_sans_io_modules_know_no_trio_no_database_no_pluggy(file: Path) -> None:
    wrong = [
        f"{name_of(file)}:{one.line} imports {one.module}"
        for one in imports(file)
        if not one.typing_only and inside(one.module, ("trio", "pluggy", *DATABASE))
    ]
    assert wrong == []


def test_only_the_store_and_tables_import_the_database() -> None:
    wrong = [
        f"{name_of(file)}:{one.line} imports {one.module}"
        for file in [*files(CORE), *(file for plugin in PLUGINS for file in files(plugin))]
        if not file.name.endswith("tables.py") and file.parent != CORE / "postward" / "store"
        for one in imports(file)
        if not one.typing_only and inside(one.module, DATABASE)
    ]
    assert wrong == []


def test_core_knows_no_plugin() -> None:
    names = tuple(plugin.name for plugin in PLUGINS)
    wrong = [f"{name_of(file)}:{one.line}" for file in files(CORE) for one in imports(file) if inside(one.module, names)]
    assert wrong == []


def test_this_test_sees_something() -> None:
    """A test that reads a moved folder would pass for ever."""
    assert len(PLUGINS) >= 4
    assert len(pure_files()) >= 20
    seen = imports(CORE / "postward" / "hookspecs.py")
    assert Import("pluggy", (), False, next(one.line for one in seen if one.module == "pluggy")) in seen
    assert all(one.typing_only for one in seen if one.module in ("trio", "postward.model"))
