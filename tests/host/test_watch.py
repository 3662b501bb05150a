"""A host's metrics read from outside: rates, quantiles, a host that began again, an answer that is none."""

from __future__ import annotations

import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import IDLE
from tls import Authority

from ephemeralml.errors import CodecError, ConfigurationError, EphemeralMLError, TransportError
from ephemeralml.exposition import MAX_BYTES, Family, histogram, read, render, sample
from ephemeralml.host.metrics import ERRORS, READY, SESSIONS, HostMetrics
from ephemeralml.host.relay import Relay
from ephemeralml.host.watch import WINDOW_SECONDS, Between, History, Scrape, scrape

COUNTER = Family("ephemeralml_a_total", "counter", "A.", ("code",))
STAGE = Family("ephemeralml_b_seconds", "histogram", "B.", ("stage",))
BOUNDS = (0.001, 0.002, 0.004)
IDLE_RELAY = Relay(None, on_closed=lambda _: None)


def at(seconds: float, *counts: int, code: int = 0) -> Scrape:
    """A reading with one counter, and one histogram that has `counts` in its buckets."""
    one = histogram(BOUNDS, counts or (0, 0, 0, 0), total=None, stage="engine")
    other = histogram(BOUNDS, (9, 9, 9, 9), total=None, stage="queue")
    return Scrape(seconds, read(render([(COUNTER, [sample(code, code="a.b")]), (STAGE, [*one, *other])])))


def test_a_rate_is_of_the_time_between() -> None:
    seen = Between(at(15, 0, 3, 0, 0, code=25), at(10, code=5))
    assert seen.seconds == 5
    assert seen.rate(COUNTER, code="a.b") == 4
    assert seen.rate(STAGE, "_count", stage="engine") == 0.6
    assert seen.rate(STAGE, "_count", stage="queue") == 0


def test_a_counter_that_came_meanwhile_grew_from_nothing() -> None:
    assert Between(at(12, code=8), Scrape(10, {})).rate(COUNTER, code="a.b") == 4


def test_without_an_earlier_reading_there_is_no_rate() -> None:
    assert Between(at(12, code=8)).rate(COUNTER, code="a.b") is None


@pytest.mark.parametrize(
    ("counts", "share", "seconds"),
    [
        ((10, 0, 0, 0), 0.5, 0.0005),
        ((0, 10, 0, 0), 0.5, 0.0015),
        ((5, 5, 0, 0), 0.5, 0.001),
        ((5, 0, 5, 0), 0.95, 0.0038),
        # Above the highest bound nothing is known but that.
        ((0, 0, 0, 10), 0.5, 0.004),
    ],
)
def test_a_quantile_is_the_one_that_prometheus_computes(counts: tuple[int, ...], share: float, seconds: float) -> None:
    found = Between(at(1, *counts)).quantile(share, STAGE, stage="engine")
    assert found == pytest.approx(seconds)


def test_a_quantile_is_of_what_came_since_the_earlier_reading() -> None:
    before, now = at(1, 1000, 0, 0, 0), at(2, 1000, 0, 10, 0)
    assert Between(now, before).quantile(0.5, STAGE, stage="engine") == pytest.approx(0.003)
    assert Between(before, before).quantile(0.5, STAGE, stage="engine") is None
    assert Between(now, before).quantile(0.5, STAGE, stage="no such") is None


@given(st.lists(st.integers(0, 10_000), min_size=4, max_size=4), st.floats(0, 1))
def test_a_quantile_lies_in_the_bucket_that_has_it(counts: list[int], share: float) -> None:
    found = Between(at(1, *counts)).quantile(share, STAGE, stage="engine")
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    assert 0 <= found <= BOUNDS[-1]
    under = sum(count for count, bound in zip(counts, (*BOUNDS, math.inf), strict=True) if bound < found)
    upto = sum(count for count, low in zip(counts, (0.0, *BOUNDS), strict=True) if low <= found)
    assert under <= share * sum(counts) * (1 + 1e-9) + 1e-9
    assert upto >= share * sum(counts) * (1 - 1e-9) - 1e-9


def test_a_host_that_began_again_is_counted_from_its_start() -> None:
    history = History()
    history.add(at(0, code=100))
    assert history.add(at(2, code=110)).rate(COUNTER, code="a.b") == 5
    # More of one thing, less of another: nothing of it is a difference.
    again = history.add(at(4, 7, 0, 0, 0, code=3))
    assert again.before is None
    assert again.quantile(0.5, STAGE, stage="engine") is not None
    assert history.add(at(6, 7, 0, 0, 0, code=5)).rate(COUNTER, code="a.b") == 1


def test_a_gauge_that_falls_is_no_new_start() -> None:
    history = History()
    history.add(Scrape(0, read(render([(SESSIONS, [sample(5)])]))))
    assert history.add(Scrape(1, read(render([(SESSIONS, [sample(4)])])))).before is not None


def test_the_window_moves_and_keeps_its_length() -> None:
    history = History()
    for second in range(0, 10 * WINDOW_SECONDS, 2):
        seen = history.add(at(second, code=second))
        assert seen.seconds == (None if second == 0 else min(second, WINDOW_SECONDS))
    # Readings further apart than the window are compared all the same.
    assert history.add(at(20 * WINDOW_SECONDS, code=10**6)).seconds is not None


@contextmanager
def answering(*pieces: bytes, again: bool = False, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """The address of what answers one request with these bytes, the last piece `again` until nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with closing(connection), suppress(OSError):
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                while again:
                    connection.sendall(pieces[-1])
                    time.sleep(0.001)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"{'http' if tls is None else 'https'}://127.0.0.1:{server.getsockname()[1]}/metrics"
        thread.join()


def response(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)


def test_what_a_host_writes_is_read() -> None:
    metrics = HostMetrics()
    metrics.reported(IDLE)
    metrics.failed("kms.throttled")
    with answering(response(metrics.render(IDLE_RELAY, serving=True).encode())) as url:
        seen = Between(scrape(url))
    assert seen.value(READY) == 1
    assert list(seen.series(ERRORS)) == [({"code": "kms.throttled"}, 1)]


@pytest.mark.parametrize(
    ("answer", "error", "code"),
    [
        (b"", TransportError, "metrics.unreachable"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", TransportError, "metrics.unreachable"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", TransportError, "metrics.unreachable"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", TransportError, "metrics.unreachable"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\na 1\n", TransportError, "metrics.unreachable"),
        (response(b"<html>"), CodecError, "metrics.malformed"),
        (response(b"a 1\na 2\n"), CodecError, "metrics.malformed"),
        (response(b"a NaN\n"), CodecError, "metrics.malformed"),
        (response(b"\xff 1\n"), CodecError, "metrics.malformed"),
        (response(b"a 1\n" * (MAX_BYTES // 4 + 1)), CodecError, "metrics.malformed"),
    ],
    ids=lambda value: value[:40] if isinstance(value, bytes) else None,
)
def test_what_answers_with_anything_else_is_refused(answer: bytes, error: type[EphemeralMLError], code: str) -> None:
    with answering(answer) as url, pytest.raises(error) as refused:
        scrape(url)
    assert refused.value.code == code


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 100 Continue\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"#"),
        # Cut off, it would look whole.
        (b"HTTP/1.1 200 OK\r\n\r\na 1", b"\n# \n"),
    ],
)
def test_an_answer_without_an_end_takes_no_longer_than_an_answer_may(
    pieces: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ephemeralml.host.watch._TIMEOUT_SECONDS", 0.2)
    with answering(*pieces, again=True) as url, pytest.raises(TransportError) as refused:
        scrape(url)
    assert refused.value.code == "metrics.unreachable"


def test_samples_with_other_labels_than_their_family_has_are_none_of_it() -> None:
    found = Between(Scrape(1, read('ephemeralml_a_total 1\nephemeralml_a_total{code="x",more="y"} 1\n')))
    assert list(found.series(COUNTER)) == []


def test_over_tls_a_host_shows_a_certificate_that_this_machine_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    page = response(b"a 1\n")
    with answering(page, tls=authority.server("127.0.0.1")) as url, pytest.raises(TransportError) as refused:
        scrape(url)
    assert refused.value.code == "metrics.unreachable"
    (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(authority.der))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    with answering(page, tls=authority.server("127.0.0.1")) as url:
        assert scrape(url).samples == {("a", ()): 1}
    with answering(page, tls=authority.server("another.example")) as url, pytest.raises(TransportError):
        scrape(url)


def test_nobody_there_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TransportError, match="is the host running") as refused:
        scrape(f"http://127.0.0.1:{port}/metrics")
    assert refused.value.code == "metrics.unreachable"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/metrics", "file:///etc/passwd", "tcp://127.0.0.1:9464", "127.0.0.1:9464", "http://"),
        *("http://h:port/", "https://h:port/", "http://h:70000/", "http://h/a b", "http://h/\r\nX: y", "http://[/"),
    ],
)
def test_an_address_that_is_none_is_the_callers_mistake(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        scrape(url)
    assert refused.value.code == "metrics.url"
