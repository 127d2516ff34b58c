"""Downloads against real servers on this machine's loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import inspect
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp import web

from dsvl_pipeline.errors import FetchError
from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.sources import web as web_module
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.sources.web import WebReader, is_public

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LIMIT = 10_000


class Server:
    """An HTTP server on loopback whose answers a test gives as functions, by path."""

    def __init__(self) -> None:
        self.handlers: dict[str, Handler] = {}
        self.requests: list[web.Request] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self.loop).result()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _start(self) -> int:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests.append(request)
            return await self.handlers[request.path](request)

        runner = web.ServerRunner(web.Server(handle))
        await runner.setup()
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        self.runner = runner
        return int(listener.getsockname()[1])

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.runner.cleanup(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    """A server without answers yet."""
    server = Server()
    yield server
    server.close()


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebReader]:
    """A reader that may talk to loopback, and hardly waits before it tries again."""
    monkeypatch.setattr(web_module, "FIRST_DELAY_S", 0.01)
    reader = WebReader(timeout_s=5, is_allowed_address=lambda address: address == "127.0.0.1")
    yield reader
    reader.close()


def answer(status: int = 200, **options: object) -> Handler:
    """Make a handler that always answers the same."""

    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status, **options)  # type: ignore[arg-type]

    return handle


def code_of(read: Callable[[], object]) -> str:
    """Give the code of the error that a read ends with."""
    with pytest.raises(FetchError) as caught:
        read()
    return caught.value.code


# ------------------------------------------------------------------ the guard


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Listens on all addresses of this machine and answers nothing."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        listener.settimeout(0)
        yield listener


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.255.255.254",
        "0x7f000001",
        "0x7f.0.0.1",
        "2130706433",
        "017700000001",
        "0177.0.0.1",
        "①②⑦.0.0.1",
        "0.0.0.0",
        "0",
        "localhost",
        "LocalHost",
        "loopback.example",  # resolves to 127.0.0.1
        "both.example",  # resolves to a public address and to 127.0.0.1
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "metadata.example",  # resolves to 169.254.169.254
        "[fe80::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.100.100.200",
        "168.63.129.16",
        "224.0.0.1",
    ],
)
def test_no_spelling_of_an_inner_address_gets_a_connection(
    host: str, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest must not read the services of this machine, its network or its cloud."""
    answers = {
        "loopback.example": ["127.0.0.1"],
        "both.example": ["127.0.0.1", "93.184.215.14"],
        "metadata.example": ["169.254.169.254"],
    }
    resolve = socket.getaddrinfo

    def resolve_examples(name: str, *args: object, **options: object) -> list[object]:
        names = answers.get(name, [name])
        return [found for one in names for found in resolve(one, *args, **options)]  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve_examples)
    config = InputConfig(manifest="m.csv", columns={"image": "image"}, allow_http=True)
    fetcher = Fetcher(config)
    try:
        with pytest.raises(FetchError) as caught:
            fetcher.read(f"http://{host}:{listener.getsockname()[1]}/")
    finally:
        fetcher.close()
    # Newer versions of aiohttp refuse numbers in unusual spellings before they are resolved.
    is_number = (host.replace(".", "").isdigit() and host.count(".") < 3) or host.startswith("0177")
    assert caught.value.code == "address_refused" or (
        is_number and caught.value.code == "url_invalid"
    )
    assert caught.value.is_retryable == (caught.value.code == "address_refused")
    with pytest.raises(BlockingIOError):  # nobody is waiting to be accepted
        listener.accept()


def test_the_listener_would_see_a_connection(listener: socket.socket) -> None:
    """Else the test above could not fail."""
    reader = WebReader(timeout_s=0.2, is_allowed_address=lambda _: True)
    try:
        with pytest.raises(FetchError):
            reader.read(f"http://0x7f000001:{listener.getsockname()[1]}/", max_bytes=LIMIT)
    finally:
        reader.close()
    listener.accept()[0].close()


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:2800:21f:cb07::1", "64:ff9b::5db8:d70e"]
)
def test_public_addresses_are_public(address: str) -> None:
    """A guard that refused everything would pass every other test."""
    assert is_public(address)


def test_a_job_file_cannot_switch_the_guard_off() -> None:
    """What tests use to reach loopback is no field of the job's input section."""
    fields = set(InputConfig.model_fields)
    assert not fields & set(inspect.signature(Fetcher.__init__).parameters)


def test_web_addresses_need_the_jobs_leave(server: Server) -> None:
    """Reading the web is off unless the job file turns it on."""
    fetcher = Fetcher(InputConfig(images="photos/*.jpg"))
    with pytest.raises(FetchError, match="allow_http: true") as caught:
        fetcher.read(server.url("/a?signature=CANARY"))
    assert caught.value.code == "scheme_refused"
    assert "CANARY" not in str(caught.value)
    assert server.requests == []


def test_proxies_of_the_environment_are_not_used(
    server: Server, reader: WebReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect in our stead, past the guard."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server.handlers["/a"] = answer(body=b"direct")
    assert reader.read(server.url("/a"), max_bytes=LIMIT).data == b"direct"


def test_a_bad_certificate_is_tried_again_by_the_next_run(
    server: Server, reader: WebReader
) -> None:
    """Whoever keeps the server renews it; the row stays as it is."""
    with pytest.raises(FetchError) as caught:
        reader.read(server.url("/a").replace("http:", "https:"), max_bytes=LIMIT)
    assert (caught.value.code, caught.value.is_retryable) == ("tls_error", True)


# ------------------------------------------------------------------ redirects


def redirect(to: str) -> Handler:
    """Make a handler that points elsewhere."""
    return answer(302, headers={"Location": to})


def test_three_redirects_are_followed_and_no_more(server: Server, reader: WebReader) -> None:
    """Image hosts redirect; a circle of redirects must end."""
    server.handlers |= {f"/{n}": redirect(f"/{n + 1}") for n in range(4)}
    server.handlers["/4"] = answer(body=b"there")
    assert reader.read(server.url("/1"), max_bytes=LIMIT).data == b"there"
    assert code_of(lambda: reader.read(server.url("/0"), max_bytes=LIMIT)) == "too_many_redirects"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("http://127.0.0.2:{port}/secret", "address_refused"),
        ("http://0x7f000002:{port}/secret", "address_refused"),
        ("file:///etc/passwd", "scheme_refused"),
        ("ftp://127.0.0.1/secret", "scheme_refused"),
        ("http://user:CANARY@127.0.0.1:{port}/secret", "url_invalid"),
    ],
)
def test_each_redirect_is_checked_again(
    target: str, code: str, server: Server, reader: WebReader
) -> None:
    """A public server could otherwise point inwards."""
    server.handlers["/"] = redirect(target.format(port=server.port))
    with pytest.raises(FetchError) as caught:
        reader.read(server.url("/"), max_bytes=LIMIT)
    assert caught.value.code == code
    assert "CANARY" not in str(caught.value)
    assert [request.path for request in server.requests] == ["/"]


def test_nothing_that_identifies_us_is_sent(
    server: Server, reader: WebReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither cookies of an earlier answer nor passwords of ~/.netrc nor a referrer."""
    (tmp_path / ".netrc").write_text("machine localhost login me password CANARY")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    server.handlers["/"] = answer(302, headers={"Location": "/b", "Set-Cookie": "a=CANARY"})
    server.handlers["/b"] = answer(body=b"x")
    # A name: cookies of bare addresses are dropped by default.
    reader.read(server.url("/?token=CANARY", "localhost"), max_bytes=LIMIT)
    second = server.requests[1]
    assert set(second.headers) == {"Host", "Accept", "Accept-Encoding", "User-Agent"}


def test_a_signed_url_arrives_as_it_was_signed(server: Server, reader: WebReader) -> None:
    """Quoting it anew would break the signature."""
    server.handlers["/a b"] = answer(body=b"x")
    path = "/a%20b?X-Amz-Signature=ab%2Fcd%2b&x=%7E"
    reader.read(server.url(path), max_bytes=LIMIT)
    assert server.requests[0].raw_path == path


# ------------------------------------------------------------ bytes and time


def test_the_body_and_its_etag_come_back(server: Server, reader: WebReader) -> None:
    """Whatever the content type says: the decoder decides what the bytes are."""
    headers = {"ETag": 'W/"abc"', "Content-Type": "text/html"}
    server.handlers["/a"] = answer(body=b"\xff\xd8", headers=headers)
    download = reader.read(server.url("/a"), max_bytes=LIMIT)
    assert (download.data, download.etag) == (b"\xff\xd8", "abc")


def test_a_body_of_exactly_the_limit_passes(server: Server, reader: WebReader) -> None:
    """The limit is the largest size allowed."""
    server.handlers["/a"] = answer(body=bytes(LIMIT))
    assert len(reader.read(server.url("/a"), max_bytes=LIMIT).data) == LIMIT


def test_too_large_a_body_is_refused_whether_announced_or_not(
    server: Server, reader: WebReader
) -> None:
    """An endless stream must end at the cap, not at the time limit."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(bytes(4096))
        return response

    server.handlers |= {"/announced": answer(body=bytes(LIMIT + 1)), "/endless": endless}
    for path in ("/announced", "/endless"):
        assert code_of(lambda p=path: reader.read(server.url(p), max_bytes=LIMIT)) == "too_large"
    assert len(server.requests) == 2  # not tried again


def test_a_compressed_body_is_refused(server: Server, reader: WebReader) -> None:
    """It was not asked for, and could expand past the cap."""
    body = gzip.compress(bytes(LIMIT))
    server.handlers["/a"] = answer(body=body, headers={"Content-Encoding": "gzip"})
    with pytest.raises(FetchError, match="Content-Encoding gzip"):
        reader.read(server.url("/a"), max_bytes=LIMIT)


def test_a_slow_server_is_a_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that keep trickling satisfy every limit but the one on the whole."""

    async def trickle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(50):
                await response.write(b".")
                await asyncio.sleep(0.02)
        return response

    monkeypatch.setattr(web_module, "FIRST_DELAY_S", 0.01)
    reader = WebReader(timeout_s=0.15, is_allowed_address=lambda _: True)
    server.handlers["/a"] = trickle
    try:
        with pytest.raises(FetchError, match=r"longer than 0\.15 s") as caught:
            reader.read(server.url("/a"), max_bytes=LIMIT)
    finally:
        reader.close()
    assert (caught.value.code, caught.value.is_retryable) == ("timeout", True)


# ----------------------------------------------------------- answers, retries


@pytest.mark.parametrize(
    ("status", "code", "is_retryable", "num_attempts"),
    [
        (404, "not_found", True, 1),
        (410, "not_found", True, 1),
        (401, "access_denied", True, 1),
        (403, "access_denied", True, 1),
        (400, "http_status", False, 1),
        (206, "http_status", False, 1),
        (429, "unavailable", True, web_module.NUM_ATTEMPTS),
        (500, "unavailable", True, web_module.NUM_ATTEMPTS),
        (503, "unavailable", True, web_module.NUM_ATTEMPTS),
    ],
)
def test_each_status_has_its_code(
    status: int, code: str, is_retryable: bool, num_attempts: int, server: Server, reader: WebReader
) -> None:
    """What may pass is tried again at once, what a person may mend by the next run."""
    server.handlers["/a"] = answer(status)
    with pytest.raises(FetchError) as caught:
        reader.read(server.url("/a?key=CANARY"), max_bytes=LIMIT)
    assert (caught.value.code, caught.value.is_retryable) == (code, is_retryable)
    assert "CANARY" not in str(caught.value)
    assert len(server.requests) == num_attempts


def test_two_faults_do_not_lose_a_file(server: Server, reader: WebReader) -> None:
    """A 503, then a body cut short, then the file."""

    async def cut_short(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    steps = iter([answer(503), cut_short, answer(body=b"whole")])
    server.handlers["/a"] = lambda request: next(steps)(request)
    assert reader.read(server.url("/a"), max_bytes=LIMIT).data == b"whole"


def test_a_closed_port_is_unavailable(reader: WebReader) -> None:
    """The server may be up again later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert code_of(lambda: reader.read(f"http://127.0.0.1:{port}/", max_bytes=1)) == "unavailable"


@pytest.mark.parametrize(
    "url", ["http://", "http:///a", "http://[::1", "http://a:b:c/", "http://u:p@127.0.0.1/"]
)
def test_a_malformed_url_says_so(url: str, reader: WebReader) -> None:
    """Also one with a password, which must not go out in a header."""
    assert code_of(lambda: reader.read(url, max_bytes=1)) == "url_invalid"


def test_an_unknown_name_is_not_found(reader: WebReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking again would not help."""

    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert code_of(lambda: reader.read("http://no.example/", max_bytes=1)) == "not_found"


def test_a_reader_works_again_after_close(server: Server, reader: WebReader) -> None:
    """Closing gives back threads and connections, no more."""
    server.handlers["/a"] = answer(body=b"x")
    reader.close()
    reader.close()
    assert reader.read(server.url("/a"), max_bytes=1).data == b"x"


def test_many_threads_share_a_reader(server: Server, reader: WebReader) -> None:
    """Stages read the images of a batch at once."""
    server.handlers |= {f"/{n}": answer(body=str(n).encode()) for n in range(40)}
    with ThreadPoolExecutor(8) as threads:
        bodies = threads.map(lambda n: reader.read(server.url(f"/{n}"), max_bytes=9), range(40))
        assert [download.data for download in bodies] == [str(n).encode() for n in range(40)]
