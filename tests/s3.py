"""A real S3 server over HTTP for tests, and a proxy that makes it fail.

The fixtures, which ``tests/conftest.py`` gives to all; a test that uses one is marked ``s3``:

- ``s3_bucket``: URI of a fresh bucket; the AWS variables point at the server.
- ``s3_faults``: the same bucket through a `FaultyServer`, whose ``rules`` say what goes wrong.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Literal

import aiohttp
import pytest
from aiohttp import web
from s3fs import S3FileSystem
from yarl import URL

Action = Literal[
    "slow_down",
    "internal",
    "conflict",
    "bad_digest",
    "reset_before",
    "reset_after",
    "truncate",
    "flip",
    "flip_sent",
    "stall",
    "hang",
    "redirect",
]
_REFUSALS = {
    "slow_down": (503, "SlowDown"),
    "internal": (500, "InternalError"),
    "conflict": (409, "Conflict"),
    "bad_digest": (400, "BadDigest"),
}
STALL_S = 2.0
# moto looks whether there is an object and writes it in two steps: of 5,000 races two writers win
# one. Here all that makes or deletes an object, an upload in pieces as well, takes turns.
_MOTO = """
import functools, sys, threading
from moto.s3.responses import S3Response
lock = threading.RLock()
def locked(plain):
    @functools.wraps(plain)
    def method(*args, **kwargs):
        with lock:
            return plain(*args, **kwargs)
    return method
for name in ("put_object", "copy_object", "_key_response_post", "delete_object"):
    setattr(S3Response, name, locked(getattr(S3Response, name)))
from moto.server import DomainDispatcherApplication as Application, main
# For each request it would list the folder of all services: a third of what the server costs.
Application.get_backend_for_host = functools.cache(Application.get_backend_for_host)
main(sys.argv[1:])
"""


@dataclass(kw_only=True)
class Rule:
    """What goes wrong with the next ``count`` requests that match.

    Attributes:
        method: HTTP method, or several with ``|`` between them.
        path: Regular expression, searched in path and query.
        action: ``slow_down`` answers 503, ``internal`` 500, ``conflict`` 409 and ``bad_digest``
            400 in the store's stead; ``reset_before`` cuts the connection before the store has
            heard, ``reset_after`` when it has acted; ``truncate`` cuts the answer in the middle;
            ``flip`` changes a byte of what the store sends, ``flip_sent`` of what it is sent;
            ``stall`` lets the request wait for `STALL_S`, ``hang`` for ever; ``redirect`` says
            that the bucket is in another region.
        count: How often; -1 for ever.
        every: Act on each n-th request that matches only.
        chance: Act on so large a part of those.
    """

    method: str
    path: str
    action: Action
    count: int = 1
    every: int = 1
    chance: float = 1.0
    seen: int = 0


@dataclass
class FaultyServer:
    """A proxy in front of the server; ``rules`` may be changed at any time.

    Attributes:
        uri: Of the bucket.
        rules: First match acts.
        requests: Method and path of each request seen.
        seed: Decides where a rule has a chance.
        faults: How often each action was taken.
    """

    uri: str
    rules: list[Rule] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    seed: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def pick(self, method: str, path: str) -> Action | None:
        """Consume the first rule that matches a request."""
        self.requests.append((method, path))
        for rule in self.rules:
            if rule.count and method in rule.method.split("|") and re.search(rule.path, path):
                rule.seen += 1
                # Of the rule's own count, not of the order in which the rules' requests come.
                drawn = random.Random(f"{self.seed} {rule.action} {rule.seen}").random()
                if rule.seen % rule.every == 0 and drawn < rule.chance:
                    rule.count -= 1
                    self.faults[rule.action] += 1
                    return rule.action
        return None


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of the server that ``DSVL_TEST_S3_ENDPOINT`` names, or of a moto server of our own."""
    named = os.environ.get("DSVL_TEST_S3_ENDPOINT")
    if named:
        yield named
        return
    with moto_server() as url:
        yield url


@pytest.fixture
def s3_bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a bucket and point the AWS variables at the server; retries hardly wait."""
    for name, value in s3_environment(s3_server).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("dsvl_pipeline.store.s3_client.FIRST_DELAY_S", 0.01)
    return make_bucket(s3_server)


@pytest.fixture
def s3_faults(
    s3_bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyServer]:
    """Put a proxy that follows rules between the client and the server."""
    faults = FaultyServer(s3_bucket)
    with proxy(faults, s3_server) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        yield faults


@contextmanager
def moto_server() -> Iterator[str]:
    """Start a moto server in a process of its own; give its URL."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", _MOTO, "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_until_up(url, server)
        yield url
    finally:
        server.kill()
        server.wait()


@contextmanager
def proxy(faults: FaultyServer, upstream: str) -> Iterator[str]:
    """Start a proxy that does what ``faults`` says, in a thread; give its URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = _free_port()
    runner = asyncio.run_coroutine_threadsafe(_start_proxy(faults, upstream, port), loop).result()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def s3_environment(url: str) -> dict[str, str]:
    """Give the AWS variables of a test's server; keys that are set stay, for a server of theirs."""
    is_named = "DSVL_TEST_S3_ENDPOINT" in os.environ
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {
        "AWS_ENDPOINT_URL": url,
        **{name: os.environ[name] if is_named else "testing" for name in names},
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(url: str) -> str:
    """Make a bucket on a server and give its URI; the AWS keys are in the environment."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    _bucket_maker(url, os.getpid()).mkdir(name)
    return f"s3://{name}"


@cache
def _bucket_maker(url: str, _process: int) -> S3FileSystem:
    """Keep the client: a new one costs 0.2 s, and hundreds of tests want a bucket."""
    return S3FileSystem(endpoint_url=url, skip_instance_cache=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _wait_until_up(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
            return
        except OSError:  # refused, reset, or slow on a busy machine
            assert server.poll() is None, "the S3 server ended at once"
            assert time.monotonic() < deadline, "the S3 server did not come up"
            time.sleep(0.1)


async def _start_proxy(faults: FaultyServer, upstream: str, port: int) -> web.AppRunner:
    session = aiohttp.ClientSession(auto_decompress=False)

    async def handle(request: web.Request) -> web.StreamResponse:
        action = faults.pick(request.method, request.raw_path)
        content = await request.read()
        if action == "stall":
            await asyncio.sleep(STALL_S)
        if action == "hang":
            await asyncio.sleep(3600)
        if action == "flip_sent":
            content = _flipped(content, faults.seed)
            # Stores compare, moto does not.
            if not _is_as_digested(content, request.headers.get("Content-MD5")):
                action = "bad_digest"
        if action in _REFUSALS:
            status, code = _REFUSALS[action]
            return web.Response(
                status=status,
                text=f"<Error><Code>{code}</Code><Message>no</Message></Error>",
                content_type="application/xml",
            )
        if action == "redirect":
            return web.Response(
                status=301,
                text="<Error><Code>PermanentRedirect</Code><Message>no</Message></Error>",
                headers={"x-amz-bucket-region": "eu-west-1"},
                content_type="application/xml",
            )
        if action == "reset_before":
            return _reset(request)
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("transfer-encoding", "connection", "expect")
        }
        async with session.request(
            request.method,
            URL(upstream + request.raw_path, encoded=True),
            headers=headers,
            data=BytesIO(content),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as answer:
            answered = await answer.read()
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("transfer-encoding", "connection", "date", "server")
            }
            if action == "reset_after":
                return _reset(request)
            if action == "flip":
                answered = _flipped(answered, faults.seed + sum(faults.faults.values()))
            response = web.StreamResponse(status=answer.status, headers=kept)
            if request.method != "HEAD" and answer.status not in (204, 304):
                response.content_length = len(answered)
            await response.prepare(request)
            if request.method == "HEAD":
                return response
            if action == "truncate":
                await response.write(answered[: len(answered) // 2])
                return _reset(request)
            await response.write(answered)
            return response

    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.Response(status=417, text="some stores and proxies know no `Expect`")

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", handle, expect_handler=refuse)

    async def close(_: web.Application) -> None:
        await session.close()

    app.on_cleanup.append(close)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


def _flipped(content: bytes, seed: int) -> bytes:
    if not content:
        return content
    at = random.Random(seed).randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def _is_as_digested(content: bytes, md5: str | None) -> bool:
    return md5 is None or base64.b64decode(md5) == hashlib.md5(content).digest()


def _reset(request: web.Request) -> web.Response:
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
    return web.Response()
