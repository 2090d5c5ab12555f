"""The tools of the benchmarks: what they send, count, compare and draw."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from xml.etree import ElementTree

import pytest
from benchmarks import _load, _plot, _report, _world
from benchmarks._rounds import Line, Spread, table

LINES = [
    Line("Retinue", Spread(4.0, 5.0, 6.0), "×", "Mosec", 6.0, rate=Spread(1.0, 2.0, 3.0), p99=1.0),
    Line("Mosec", Spread(0.1, 0.2, 0.3), "%", "Retinue", p99=2.0),
]


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that gives every request of one connection after the other the same answer."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                try:
                    while connection.recv(65536):
                        connection.sendall(answer)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
BAD = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy"


@pytest.mark.parametrize("compiled", [True, False])
def test_answers_are_counted_by_the_program_and_by_its_stand_in(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(_load, "program", lambda: None)
    elif _load.program() is None:
        pytest.skip("no C compiler")
    with answering(GOOD) as port:
        found = _load.load(port, _load.traffic(_world.rows("/")), connections=1, seconds=0.1, warmup=0.0)
    assert found.answered > 0
    assert found.failed == 0
    assert 0 < found.p50 <= found.p99 <= found.max * 1.01


def test_answers_in_chunks_are_whole_answers() -> None:
    if _load.program() is None:
        pytest.skip("no C compiler")
    with answering(CHUNKED) as port:
        found = _load.load(port, _load.traffic([b"x"]), connections=1, seconds=0.1, warmup=0.0)
    assert found.answered > 0


@pytest.mark.parametrize("compiled", [True, False])
def test_a_server_that_refuses_is_no_fast_server(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(_load, "program", lambda: None)
    with answering(BAD) as port, pytest.raises(_load.LoadFailedError, match="503"):
        _load.load(port, _load.traffic([b"x"]), connections=1, seconds=0.1, warmup=0.0)


def test_an_open_loop_counts_what_was_due_and_had_no_answer() -> None:
    if _load.program() is None:
        pytest.skip("no C compiler")
    with answering(b"") as port, pytest.raises(_load.LoadFailedError, match="0 of 0"):
        _load.load(port, _load.traffic([b"x"]), connections=1, seconds=0.1, warmup=0.0, rate=1000)


def test_traffic_by_zipf_asks_the_first_most_and_is_the_same_every_time() -> None:
    found = _load.traffic([b"a", b"b", b"c"], zipf=1.0, seed=3)
    assert found == _load.traffic([b"a", b"b", b"c"], zipf=1.0, seed=3)
    counts = [found.order.count(place) for place in range(3)]
    assert counts == sorted(counts, reverse=True)
    (texts,) = struct.unpack_from("<I", found.packed())
    assert texts == 3


def test_a_line_says_whether_its_median_keeps_the_target() -> None:
    assert LINES[0].met is False
    assert LINES[1].met is None
    assert Line("cost", Spread(0.1, 0.2, 0.4), "%", "off", 0.25, at_most=True).met is True
    assert "5.00 × (4.00 ×–6.00 ×) of Mosec" in table(LINES)
    assert "MISSED" in table(LINES)


def test_plots_are_well_formed_and_name_what_they_show() -> None:
    drawn = _report.peers_plot(LINES)
    words = {element.text for element in ElementTree.fromstring(drawn).iter() if element.text}
    assert {"Mosec", "5.00 ×"} <= words
    echo = Line("friendly & JSON", Spread(0.3, 0.4, 0.5), "%", "bare echo", 0.4)
    assert "friendly &amp; JSON" in _report.echo_plot([echo])


def test_a_value_beyond_the_axis_is_drawn_at_its_end() -> None:
    axis = _plot.Axis(100, 200, 1, 1000, log=True)
    assert [axis.at(value) for value in (0.1, 1, 1000, 5000)] == [100, 100, 300, 300]
