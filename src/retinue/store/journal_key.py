"""Fields that are journalled as digests: one secret key per state folder, so equal values stay equal and unknown."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Any

from retinue.core.routing import key_text

_NAME = "hash.key"
_SIZE = 32


def hash_key(folder: Path) -> bytes:
    """The key kept in `folder`, made at first use, readable by its owner alone. Raises OSError."""
    path = folder / _NAME
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, made = tempfile.mkstemp(dir=folder, prefix=".key-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_SIZE))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(made, path)  # of several gateways the first wins
    finally:
        os.unlink(made)
    return path.read_bytes()


def digest_of(key: bytes, value: Any) -> str | None:
    """The keyed digest of a field's value, 32 hexadecimal digits; None stays None.

    >>> digest_of(b"k", "ann") == digest_of(b"k", "ann") != digest_of(b"other", "ann")
    True
    """
    if value is None:
        return None
    text = key_text(value)
    data = (repr(value) if text is None else text).encode("utf-8", "surrogatepass")
    return blake2b(data, key=key, digest_size=16).hexdigest()
