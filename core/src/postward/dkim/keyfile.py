"""New signing keys as files, and what an owner publishes for them (RFC 6376 §3.6.1, RFC 8463)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from postward.dkim.key import BadKey
from postward.dkim.sign import SigningKey, dns_record, private_pem
from postward.errors import PostwardError

# What the configuration takes.
SELECTOR: Final = re.compile(r"(?=.{1,63}\Z)[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


class KeyExists(PostwardError):
    """There is a file where a new key should go. Keys are never overwritten."""


def path_for(key: SigningKey, folder: Path) -> Path:
    """Where the private key is kept."""
    return folder / f"{key.domain}.{key.selector}.pem"


def write_key(key: SigningKey, folder: Path) -> Path:
    """Write a new private key for its owner alone (0600), durably, and give its path. The folder is made if it is missing.

    Made by root, file and folder belong to the owner of the folder around them, because the program itself does not run as
    root. Raises `KeyExists`, `OSError`.
    """
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True)
        _hand_over(folder)
    path = path_for(key, folder)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyExists(f"{path} exists, and a key is never overwritten: choose another selector") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(private_pem(key.key))
        file.flush()
        os.fsync(descriptor)
    _hand_over(path)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


def _hand_over(path: Path) -> None:
    if os.geteuid() == 0:
        around = path.parent.stat()
        os.chown(path, around.st_uid, around.st_gid)


def record_value(key: SigningKey) -> str:
    """The TXT record of a key as one string, the way that web forms of DNS providers want it."""
    return "".join(dns_record(key)[1].split('"')[1::2])


def zone_line(key: SigningKey, ttl: int = 3600) -> str:
    """The TXT record of a key as a line of a zone file, in strings of at most 255 octets."""
    name, strings = dns_record(key)
    return f"{name}. {ttl} IN TXT {strings}"


def checked(key: SigningKey) -> SigningKey:
    """The key, if a record can be published for it. Raises `BadKey` for an address literal, `InvalidName` for a long name."""
    if key.domain.is_literal:
        raise BadKey(f"{key.domain} is an address, and only a domain can publish a key")
    dns_record(key)
    return key
