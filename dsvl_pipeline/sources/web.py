"""HTTP(S) downloads of addresses that strangers wrote into a manifest.

The guard stands where sockets are made, after name resolution: whatever a name or a number is
spelled like, and whatever a redirect or a second DNS answer says, only a public address gets a
connection.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import aiohttp
from yarl import URL

from dsvl_pipeline.errors import FetchError
from dsvl_pipeline.sources.addresses import is_public
from dsvl_pipeline.store.uris import shown

MAX_REDIRECTS = 3
NUM_ATTEMPTS = 3
_MAY_PASS_SOON = ("timeout", "unavailable")  # what else is retryable waits for a person
FIRST_DELAY_S = 0.5
CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """The body of a good answer, and the etag the server gave it."""

    data: bytes
    etag: str | None


class WebReader:
    """Downloads bodies with limits on addresses, bytes, time and redirects.

    Thread-safe. Runs its own event loop in a thread that starts with the first download.
    """

    def __init__(
        self, *, timeout_s: float, is_allowed_address: Callable[[str], bool] = is_public
    ) -> None:
        self._timeout_s = timeout_s
        self._is_allowed_address = is_allowed_address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._session: aiohttp.ClientSession | None = None

    def read(self, url: str, *, max_bytes: int) -> Download:
        """Download one body.

        Raises:
            FetchError: With code ``not_found``, ``access_denied``, ``too_large``, ``timeout``,
                ``unavailable``, ``http_status``, ``url_invalid``, ``scheme_refused``,
                ``address_refused`` or ``too_many_redirects``.
        """
        return asyncio.run_coroutine_threadsafe(
            self._read_with_retries(url, max_bytes), self._running_loop()
        ).result()

    def close(self) -> None:
        """Close connections and end the thread; a later read starts anew."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close_session(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="dsvl-web", daemon=True
                )
                self._thread.start()
            return self._loop

    async def _close_session(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _read_with_retries(self, url: str, max_bytes: int) -> Download:
        for attempt in range(NUM_ATTEMPTS):
            try:
                return await self._read_once(url, max_bytes)
            except FetchError as error:
                if error.code not in _MAY_PASS_SOON or attempt == NUM_ATTEMPTS - 1:
                    raise
                await asyncio.sleep(FIRST_DELAY_S * 2**attempt * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    async def _read_once(self, url: str, max_bytes: int) -> Download:
        try:
            return await self._follow(_parse(url), max_bytes)
        except _AddressRefusedError as refused:
            raise FetchError(
                "address_refused",
                f"{shown(url)} leads to {refused}, which is not a public address; manifests may "
                "name public servers only",
                is_retryable=True,
            ) from None
        except TimeoutError:
            raise FetchError(
                "timeout",
                f"{shown(url)} took longer than {self._timeout_s:g} s; raise "
                "input.fetch_timeout_s if the server is slow",
                is_retryable=True,
            ) from None
        except aiohttp.ClientConnectorDNSError as error:
            _raise_dns(url, error)
        except aiohttp.ClientSSLError as error:
            raise FetchError(
                "tls_error",
                f"{shown(url)}: no secure connection ({type(error).__name__}); the server's "
                "certificate must be valid, and known to this machine",
                is_retryable=True,
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, aiohttp.InvalidURL | ValueError):
                raise FetchError("url_invalid", f"{shown(url)} is not a usable URL") from None
            # The text of aiohttp's errors may hold the whole URL, secrets included.
            raise FetchError(
                "unavailable",
                f"{shown(url)}: the connection failed ({type(error).__name__})",
                is_retryable=True,
            ) from None

    async def _follow(self, url: URL, max_bytes: int) -> Download:
        session = self._open_session()
        for _ in range(MAX_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                location = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or location is None:
                    return await _body(response, str(url), max_bytes)
                url = _parse(location, base=url)
        raise FetchError(
            "too_many_redirects",
            f"{shown(str(url))}: more than {MAX_REDIRECTS} redirects in a row",
        )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                socket_factory=self._guarded_socket,
                # One address after the other: what a race makes of a refusal differs by version.
                happy_eyeballs_delay=None,
                limit=64,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(
                    total=self._timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s)
                ),
                trust_env=False,  # no proxies, no ~/.netrc
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # a compressed body could expand past the byte cap
                headers={"Accept-Encoding": "identity", "User-Agent": "dsvl-pipeline"},
            )
        return self._session

    def _guarded_socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, target = address
        if not self._is_allowed_address(target[0]):
            raise _AddressRefusedError(target[0])
        return socket.socket(family=family, type=kind, proto=protocol)


class _AddressRefusedError(Exception):
    """Not an OSError on purpose: aiohttp would go on with the name's next address."""


def _parse(text: str, *, base: URL | None = None) -> URL:
    # Signed URLs must reach the server as they were signed: quoted text is left alone.
    url = URL(text, encoded=text.isascii() and text.isprintable() and " " not in text)
    absolute = url if base is None else base.join(url)
    if absolute.scheme not in ("http", "https"):
        raise FetchError(
            "scheme_refused",
            f"{shown(str(absolute))}: a web address must start with http:// or https://",
            is_retryable=True,
        )
    if absolute.user is not None or absolute.password is not None:
        raise FetchError(
            "url_invalid", f"{shown(str(absolute))} holds a user name or password; remove it"
        )
    if not absolute.host:
        raise FetchError("url_invalid", f"{shown(str(absolute))} names no server")
    return absolute


async def _body(response: aiohttp.ClientResponse, url: str, max_bytes: int) -> Download:
    _check_status(response, url)
    if (response.content_length or 0) > max_bytes:
        raise too_large(url, response.content_length, max_bytes)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise FetchError(
            "http_status", f"{shown(url)}: the server insists on Content-Encoding {encoding[:32]}"
        )
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > max_bytes:
            raise too_large(url, None, max_bytes)
    return Download(data=bytes(data), etag=_etag(response.headers.get("ETag")))


def too_large(uri: str, found: int | None, max_bytes: int) -> FetchError:
    """Make the error for a file over the byte cap, from any kind of store."""
    size = "more" if found is None else f"{found:,} bytes, more"
    return FetchError(
        "too_large",
        f"{shown(uri)} holds {size} than the limit of {max_bytes:,}; raise "
        "input.max_image_bytes or input.max_document_bytes if that is intended",
        is_retryable=True,
    )


def _check_status(response: aiohttp.ClientResponse, url: str) -> None:
    status, name = response.status, shown(url)
    if status == 200:
        return
    if status in (404, 410):
        raise FetchError(
            "not_found",
            f"{name}: the server has no such file (HTTP {status})",
            is_retryable=True,
        )
    if status in (401, 403, 407):
        raise FetchError(
            "access_denied",
            f"{name}: the server refuses access (HTTP {status})",
            is_retryable=True,
        )
    if status in (408, 425, 429) or status >= 500:
        raise FetchError(
            "unavailable", f"{name}: the server answered HTTP {status}", is_retryable=True
        )
    raise FetchError("http_status", f"{name}: expected HTTP 200, the server answered {status}")


def _etag(header: str | None) -> str | None:
    return header.removeprefix("W/").strip('"')[:256] if header else None


def _raise_dns(url: str, error: aiohttp.ClientConnectorDNSError) -> NoReturn:
    if error.os_error.errno == socket.EAI_NONAME:
        raise FetchError(
            "not_found", f"{shown(url)}: no server has this name", is_retryable=True
        ) from None
    raise FetchError(
        "unavailable", f"{shown(url)}: the server's name could not be resolved", is_retryable=True
    ) from None
