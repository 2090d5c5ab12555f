from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from tests.gateway.certificates import make

from retinue.core.errors import UsageError
from retinue.gateway.tls import Certificate, certificate_of
from retinue.settings import Settings


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    make(certificate, key, "first")
    return certificate, key


def served_to(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """A handshake over a real socket; returns the common name that the client was shown."""
    ours, theirs = socket.socketpair()

    def answer() -> None:
        try:
            server.wrap_socket(ours, server_side=True).close()
        except OSError:
            ours.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with client.wrap_socket(theirs, server_hostname="localhost") as there:
            shown = there.getpeercert(binary_form=True)
            assert shown is not None
            return "first" if b"first" in shown else "second" if b"second" in shown else "another"
    finally:
        theirs.close()
        thread.join()


def any_client(**changes: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def test_new_connections_get_the_new_certificate_from_the_same_context(files: tuple[Path, Path]) -> None:
    said: list[tuple[str, str]] = []
    serving = Certificate(*files, lambda event, text: said.append((event, text)))
    assert served_to(any_client(), serving.context) == "first"
    make(*files, "second")
    serving.tick()
    assert served_to(any_client(), serving.context) == "second"
    assert [event for event, _ in said] == ["tls.changed"]


def test_half_of_a_change_or_junk_never_gets_into_the_context_that_serves(files: tuple[Path, Path]) -> None:
    said: list[tuple[str, str]] = []
    serving = Certificate(*files, lambda event, text: said.append((event, text)))
    old = [file.read_bytes() for file in files]
    make(*files, "second")
    new = [file.read_bytes() for file in files]
    for certificate, key in ((new[0], old[1]), (old[0], new[1]), (b"junk", old[1]), (b"", b"")):
        files[0].write_bytes(certificate)
        files[1].write_bytes(key)
        serving.tick()
        serving.tick()
        assert serving.trouble is not None
        assert served_to(any_client(), serving.context) == "first"
    files[1].unlink()
    serving.tick()
    assert served_to(any_client(), serving.context) == "first"
    assert {event for event, _ in said} == {"tls.damaged"}
    for file, data in zip(files, new, strict=True):
        file.write_bytes(data)
    serving.tick()
    assert serving.trouble is None
    assert served_to(any_client(), serving.context) == "second"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_clients_that_speak_nothing_newer_than_tls_1_1_are_refused(files: tuple[Path, Path]) -> None:
    old = any_client(minimum_version=ssl.TLSVersion.TLSv1, maximum_version=ssl.TLSVersion.TLSv1_1)
    with pytest.raises(OSError, match=r"(?i)version|protocol|reset|eof|no.*available"):
        served_to(old, Certificate(*files).context)


def test_files_that_cannot_be_used_are_refused_with_words(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other = tmp_path / "other.key"
    make(tmp_path / "other.crt", other)
    locked = tmp_path / "locked.key"
    make(tmp_path / "locked.crt", locked, password=b"secret")
    for pair, words in (
        ((certificate, other), "do not belong together"),
        ((tmp_path / "locked.crt", locked), "encrypted"),
        ((key, certificate), "cannot be used"),
        ((certificate, tmp_path / "gone"), "No such file"),
        ((tmp_path, key), "cannot be used"),
    ):
        with pytest.raises(UsageError, match=words) as refused:
            Certificate(*pair)
        assert "tls_certificate" in str(refused.value.hint)


def test_settings_name_both_files_or_neither(files: tuple[Path, Path], tmp_path: Path) -> None:
    plain = Settings(tmp_path, "sqlite://", "file://")
    assert certificate_of(plain) is None
    with pytest.raises(UsageError, match="only one of"):
        certificate_of(Settings(tmp_path, "sqlite://", "file://", tls_key=str(files[1])))
    assert certificate_of(Settings(tmp_path, "", "", tls_certificate=str(files[0]), tls_key=str(files[1])))


def test_the_grpc_door_shows_the_same_certificate_and_its_successor(files: tuple[Path, Path]) -> None:
    serving = Certificate(*files)
    client = any_client()
    client.set_alpn_protocols(["h2"])
    assert served_to(client, serving.grpc_context) == "first"
    make(*files, "second")
    serving.tick()
    assert served_to(client, serving.grpc_context) == "second"
    assert served_to(client, serving.context) == "second"
