"""Pictures that a caller names: by path or URI, whatever these are called."""

from __future__ import annotations

import base64
import io
import ssl
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote_from_bytes

import pytest
import torch
from PIL import Image

from dsvl_pipeline import DeepseekVLHybridProcessor
from dsvl_pipeline.api import pictures
from dsvl_pipeline.api.pictures import read, sources_of
from dsvl_pipeline.errors import ImageError
from dsvl_pipeline.sources.web import WebReader


@pytest.mark.parametrize(
    "name", ["scan[1].png", "a#b?c.png", "per%20cent.png", "tab\t.png", "line\n.png", "[.png", "~"]
)
def test_a_picture_is_opened_by_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a path, absolute or not, and as a URI, in which other characters than ``%`` may stand."""
    Image.new("RGB", (3, 2)).save(tmp_path / name, "PNG")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    for source in (name, path, str(path), path.as_uri(), f"file://{path}".replace("%", "%25")):
        assert read(source).size == (3, 2)


@pytest.mark.parametrize("url", ["http://h/a.png", "HTTPS://h/a.png", "https://[h/a.png"])
def test_nothing_is_fetched(url: str) -> None:
    """The message says what to do instead."""
    with pytest.raises(ValueError, match="download it and give its path"):
        read(url)


def png(size: tuple[int, int] = (3, 2)) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return file.getvalue()


def test_a_picture_may_be_text() -> None:
    """A data: URL, base64 or not, or base64 alone, in lines as Python writes it."""
    text = base64.b64encode(png()).decode()
    quoted = "data:image/png," + quote_from_bytes(png())
    for source in (
        f"data:image/png;base64,{text}",
        quoted,
        text,
        base64.encodebytes(png()).decode(),
    ):
        assert read(source).size == (3, 2)
    assert read(*sources_of({"type": "image", "base64": text})).size == (3, 2)
    for wrong in ("data:image/png;base64", f"data:;base64,{text[:41]}", "no file", "/dev/zero"):
        with pytest.raises(ValueError, match=r"no data: URL|not base64|is no file here"):
            read(wrong)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A picture on an https server of this machine, whose certificate is trusted."""
    command = "openssl req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2"
    files = ["-keyout", "key.pem", "-out", "cert.pem"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(
        [*command.split(), *files, *names], cwd=tmp_path, check=True, capture_output=True
    )
    (tmp_path / "a b.png").write_bytes(png())
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    yield f"https://localhost:{server.server_port}/a%20b.png"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_picture_on_the_web_is_fetched_where_that_is_allowed(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the guarded reader: from public addresses, for which this test takes its own."""
    with pytest.raises(ImageError, match="not a public address") as caught:
        read(address, allow_http=True)
    assert caught.value.code == "address_refused"
    reader = WebReader(timeout_s=5, is_allowed_address=lambda _: True)
    monkeypatch.setattr(pictures, "_web", lambda: reader)
    chat = [{"role": "user", "content": [{"type": "image", "url": address}]}]
    processor = DeepseekVLHybridProcessor.from_pretrained("demo", allow_http=True)
    wanted = processor(images=png()).pixel_values
    options = {"tokenize": True, "return_dict": True}
    assert torch.equal(processor.apply_chat_template(chat, **options).pixel_values, wanted)
    with pytest.raises(ValueError, match="unless allow_http=True is given"):
        processor.apply_chat_template(chat, allow_http=False, **options)
    processor = DeepseekVLHybridProcessor.from_pretrained("demo")
    found = processor.apply_chat_template(chat, allow_http=True, **options)
    assert torch.equal(found.pixel_values, wanted)
    assert torch.equal(
        processor.image_processor(address, allow_http=True, return_tensors="pt").pixel_values,
        wanted,
    )
    reader.close()
