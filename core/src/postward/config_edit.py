"""Changing which plugins a configuration file enables, and nothing else of it.

Comments, order and layout are the operator's. Every edit is checked by reading the result: what it says must be what the file
said before, except the plugin. The options of a disabled plugin stay in the file, each line behind `#(name) `, and come back
when it is enabled again.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Any, Final

import tomli_w
import tomlkit
from tomlkit.exceptions import TOMLKitError

from postward.errors import ConfigError

_HEADER: Final = re.compile(r"""\s*\[\[?[\w."'\s-]+\]\]?\s*(#.*)?$""")
# In an array of texts: comments, texts, and what stands between.
_TOKEN: Final = re.compile(
    r"""\#[^\n]*|\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\])*"|'[^']*'|[^"'\#]+""", re.DOTALL
)
_PLUGINS: Final = re.compile(r"""^[ \t]*(?:plugins|"plugins"|'plugins')[ \t]*=[ \t]*""", re.MULTILINE)


def enabled_in(text: str, name: str) -> str:
    """The text with `name` as the last of `plugins`, its options back in force.

    Raises `ConfigError` when that cannot be done.
    """
    before = tomllib.loads(text)
    names = [*_names(before), name]
    edited = text if name in _tables(before) else _restored(text, name)
    return _checked(_with_plugins(edited, names), before, name, names)


def disabled_in(text: str, name: str) -> str:
    """The text without `name` in `plugins`, its options commented out. Raises `ConfigError` when that cannot be done."""
    before = tomllib.loads(text)
    names = [one for one in _names(before) if one != name]
    edited = _with_plugins(text, names)
    if name in _tables(before):
        edited = _commented(edited, name)
        if name in _tables(_loads(edited)):
            raise ConfigError(f"move the options of {name!r} away first; they cannot be commented out", key=f"plugin.{name}")
    return _checked(edited, before, name, names)


def minimal(name: str) -> str:
    """A file that enables one plugin and leaves everything else at its default."""
    return tomli_w.dumps({"plugins": [name]})


def _names(data: dict[str, Any]) -> list[str]:
    names = data.get("plugins", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError("should be a list of names", key="plugins")
    return names


def _tables(data: dict[str, Any]) -> dict[str, Any]:
    tables = data.get("plugin", {})
    if not isinstance(tables, dict):
        raise ConfigError("should be a table", key="plugin")
    return tables


def _with_plugins(text: str, names: list[str]) -> str:
    """The text with exactly these plugins, of which at most one was added or taken away."""
    try:
        array: Any = tomlkit.parse(text).get("plugins")
        if array is None:
            # In front: behind a table header it would be a key of that table.
            return tomli_w.dumps({"plugins": names}) + ("\n" + text if text.strip() else "")
        written: str = array.as_string()
        for index in reversed(range(len(array))):
            if array[index] not in names:
                del array[index]
        for name in names:
            if name not in array:
                array.append(name)
    except (TOMLKitError, AttributeError, IndexError, TypeError, ValueError) as exc:
        raise ConfigError(f"cannot be edited: {exc}", key="plugins") from None
    edited: str = array.as_string()
    if _value_of(edited) != names and names[:-1] == _value_of(written):
        # Behind a last element without a comma and with a comment, tomlkit sometimes adds to the comment.
        edited = _behind_the_last(written, names[-1])
    # Only the array is replaced: tomlkit moves tables when it writes a whole document.
    for match in _PLUGINS.finditer(text):
        if text.startswith(written, match.end()):
            return text[: match.end()] + edited + text[match.end() + len(written) :]
    raise ConfigError("cannot be found where it stands; edit it by hand", key="plugins")


def _value_of(array: str) -> object:
    try:
        return tomllib.loads(f"value = {array}")["value"]
    except tomllib.TOMLDecodeError:
        return None


def _behind_the_last(array: str, name: str) -> str:
    """The text of an array with one more name directly behind its last element, whatever comments follow."""
    last = [match for match in _TOKEN.finditer(array) if match[0][0] in "\"'"][-1]
    return f"{array[: last.end()]}, {tomlkit.item(name).as_string()}{array[last.end() :]}"


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _commented(text: str, name: str) -> str:
    """The text with the tables of a plugin commented out, up to the blank lines and comments before what follows."""
    header = re.compile(rf"""\s*\[\[?\s*plugin\s*\.\s*["']?{re.escape(name)}["']?\s*[.\]]""")
    lines = _lines(text)
    inside, block = False, list[int]()
    chosen: list[int] = []
    for index, line in enumerate(lines):
        if _HEADER.match(line):
            inside = header.match(line) is not None
            block = []
        if inside:
            block.append(index)
            if line.strip() and not line.lstrip().startswith("#"):
                chosen += block
                block = []
    for index in chosen:
        lines[index] = f"#({name}) {lines[index]}"
    return "".join(lines)


def _restored(text: str, name: str) -> str:
    mark = f"#({name}) "
    return "".join(line.removeprefix(mark) for line in _lines(text))


def _loads(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"cannot be edited without breaking it ({exc}); edit it by hand") from None


def _checked(text: str, before: dict[str, Any], name: str, names: list[str]) -> str:
    after = _loads(text)
    if after.get("plugins") != names or _rest(after, name) != _rest(before, name):
        raise ConfigError("cannot be edited without changing something else; edit it by hand")
    return text


def _rest(data: dict[str, Any], name: str) -> dict[str, Any]:
    """Everything that an edit for this plugin leaves alone."""
    tables = {key: value for key, value in _tables(data).items() if key != name}
    return {**data, "plugin": tables, "plugins": None}


def replace_file(file: Path, before: bytes | None, text: str, *, new_mode: int = 0o666) -> None:
    """Write a file in one step, with the mode and owner that it had; `before` is what was read, None for a new file.

    A new file has `new_mode`, less what the umask takes.

    Raises `ConfigError` when it cannot be written or was changed meanwhile; then it is as it was.
    """
    try:
        target = file.resolve()
    except RuntimeError:  # before Python 3.13
        raise ConfigError("is a link to itself", file=str(file)) from None
    temporary: Path | None = None
    try:
        handle, path = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(path)
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode())
            _like(target, stream.fileno(), new_mode)
            stream.flush()
            os.fsync(stream.fileno())
        if (target.read_bytes() if target.exists() else None) != before:
            raise ConfigError("was changed by somebody else meanwhile; nothing is written", file=str(file))
        temporary.replace(target)
    except OSError as exc:
        raise ConfigError(f"cannot be written: {exc.strerror or exc}", file=str(file)) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _like(target: Path, handle: int, new_mode: int) -> None:
    if not target.exists():
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(handle, new_mode & ~mask)
        return
    known = target.stat()
    if (known.st_uid, known.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(handle, known.st_uid, known.st_gid)
    os.fchmod(handle, stat.S_IMODE(known.st_mode))
