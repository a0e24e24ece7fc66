"""Foreign programs for tests: present, skipped with a reason, or in continuous integration an error."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def need(*programs: str) -> str:
    """The path of the first program, when all are installed; else skip, or fail where `CI` is set."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
    found = {program: shutil.which(program, path=path) for program in programs}
    if missing := [program for program, where in found.items() if where is None]:
        lack(f"not installed: {', '.join(missing)}")
    return found[programs[0]] or ""


def lack(reason: str) -> NoReturn:
    """Skip a test for want of something on this machine; fail it where `CI` is set, which installs everything."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
