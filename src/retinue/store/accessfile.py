"""The rights file: who may call what, compiled for gateways, beside the release files of a stage.

    "RETACC" | format u16 | SHA-256 of the rest (32 bytes) | JSON {"portfolio", "clients": […]}

It is a file of its own because rights have a history of their own: no rollback of models gives back what was revoked.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path

from retinue.core.access import ClientRecord, Rights, from_json, to_json
from retinue.core.errors import CorruptArtifactError
from retinue.core.identity import canonical
from retinue.store.releasefile import replace_file

_HEAD = struct.Struct("<6sH32s")
_MAGIC = b"RETACC"
FORMAT = 1
NAME = "access"
_REWRITE = "`retinue clients list` (or `retinue apply`) writes it anew."


def write_access(folder: Path, portfolio: str, clients: Sequence[ClientRecord]) -> bool:
    """Write `folder/access` in one step if it says something else; returns whether it did.

    Raises StateUnavailableError when the disk does not take it.
    """
    body = canonical({"portfolio": portfolio, "clients": [to_json(client) for client in clients]})
    data = _HEAD.pack(_MAGIC, FORMAT, hashlib.sha256(body).digest()) + body
    path = folder / NAME
    try:
        if path.read_bytes() == data:
            return False
    except OSError:
        pass  # missing or unreadable: it is replaced
    replace_file(path, data)
    return True


def names_clients(folder: Path) -> bool:
    """Whether a sound rights file in `folder` names any client."""
    try:
        return read_access(folder / NAME).closed
    except CorruptArtifactError:
        return False


def read_access(path: Path) -> Rights:
    """The rights in that file. Raises CorruptArtifactError for one that is missing, cut, damaged or newer."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unsound(path, f"cannot be read: {error.strerror or error}") from error
    if len(data) < _HEAD.size or not data.startswith(_MAGIC):
        raise _unsound(path, "is cut off or no rights file")
    _, version, digest = _HEAD.unpack_from(data)
    if version != FORMAT:
        raise _unsound(path, f"has format {version}; this Retinue reads {FORMAT}")
    body = data[_HEAD.size :]
    if hashlib.sha256(body).digest() != digest:
        raise _unsound(path, "is damaged: its bytes have another digest")
    try:
        return Rights(from_json(client) for client in json.loads(body)["clients"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unsound(path, f"does not parse: {error}") from error


def _unsound(path: Path, why: str) -> CorruptArtifactError:
    return CorruptArtifactError(f"the rights file {why}", where=str(path), hint=_REWRITE)
