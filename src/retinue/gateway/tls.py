"""TLS of the doors: one certificate, read again when its files change; no restart, no connection lost."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from retinue.core.errors import UsageError
from retinue.settings import Settings

HANDSHAKE = 10.0  # seconds a client may take to agree on a connection

Note = Callable[[str, str], None]
_HINT = "Correct [serve] tls_certificate and tls_key in retinue.toml, or remove both to serve plain HTTP."


class Certificate:
    """A certificate with its key. New connections get what the files hold now, at most a second later."""

    def __init__(self, certificate: Path, key: Path, say: Note = lambda event, text: None) -> None:
        """Read both. Raises UsageError when they are missing, no PEM, encrypted, or do not belong together."""
        self._files = (certificate, key)
        self._say = say
        self._stamp = self._look()
        self.trouble: str | None = None  # why the certificate in use is not the one on disk
        self.context = _context(certificate, key, "http/1.1")
        self.grpc_context = _context(certificate, key, "h2")

    def tick(self) -> None:
        """Look for changes; called about once a second. What cannot be used is said, the last good one stays."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            _context(*self._files, "h2")  # a trial: half of a change must never get into the contexts that serve
            for context in (self.context, self.grpc_context):
                context.load_cert_chain(*self._files, password=_no_password)
        except (UsageError, OSError, ValueError) as error:  # the other file may follow in a moment
            if str(error) != self.trouble:
                self.trouble = str(error)
                self._say("tls.damaged", f"{error}; the last good certificate stays in use")
            return
        self._stamp, self.trouble = stamp, None
        self._say("tls.changed", "new connections get the new certificate")

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        try:
            found = [file.stat() for file in self._files]
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}", hint=_HINT) from error
        return tuple((one.st_mtime_ns, one.st_size, one.st_ino) for one in found)


def certificate_of(settings: Settings, say: Note = lambda event, text: None) -> Certificate | None:
    """The certificate that settings name, None for plain HTTP. Raises UsageError when it cannot be used."""
    if not settings.tls_certificate and not settings.tls_key:
        return None
    if not (settings.tls_certificate and settings.tls_key):
        raise UsageError("only one of tls_certificate and tls_key is set", hint=_HINT)
    return Certificate(Path(settings.tls_certificate), Path(settings.tls_key), say)


def _context(certificate: Path, key: Path, protocol: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols([protocol])
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        why = "they do not belong together" if "MISMATCH" in str(error).upper() else "not PEM, or damaged"
        raise UsageError(f"certificate {certificate} and key {key} cannot be used: {why}", hint=_HINT) from error
    except (OSError, ValueError) as error:
        raise UsageError(f"certificate {certificate} and key {key} cannot be used: {error}", hint=_HINT) from error
    return context


def _no_password() -> str:
    """Asked for when the key is encrypted: nobody is there to type."""
    raise ValueError("the key is encrypted; store it without a password, readable by this user only")
