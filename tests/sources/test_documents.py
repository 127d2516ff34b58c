"""Rendering in a process that is made to hang, to die and to run out of memory."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from dsvl_pipeline.errors import ConfigError, DocumentError
from dsvl_pipeline.job.inputs import DocumentConfig
from dsvl_pipeline.sandbox.child import Child
from dsvl_pipeline.sources import documents
from dsvl_pipeline.sources.documents import DocumentRenderer, document_rows

COLOURS = ["red", "lime", "blue"]


def pictures(*colours: str, size: tuple[int, int] = (72, 36)) -> bytes:
    """A PDF with one page of plain colour each, ``size`` points large."""
    first, *others = [Image.new("RGB", size, colour) for colour in colours]
    buffer = io.BytesIO()
    first.save(buffer, "PDF", save_all=True, append_images=others, resolution=72)
    return buffer.getvalue()


def handmade(*objects: str, trailer: str = "") -> bytes:
    """A PDF of objects 1, 2, ...; object 1 is the catalogue. pdfium finds them without an index."""
    body = "".join(f"{n} 0 obj\n{text}\nendobj\n" for n, text in enumerate(objects, 1))
    return f"%PDF-1.4\n{body}trailer\n<< /Root 1 0 R {trailer} >>\n%%EOF\n".encode()


def one_page(content: str, *more: str, box: str = "0 0 72 36", page: str = "") -> bytes:
    """A PDF with one page of drawing commands; ``more`` are objects 5, 6, ..."""
    return handmade(
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents 4 0 R {page} >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        *more,
    )


def endless() -> bytes:
    """A small page that draws a form of ten forms of ten forms ...: 10^12 squares."""
    inner = "0 0 1 rg 0 0 9 9 re f"
    forms = []
    for level in range(12):
        content = "/F Do\n" * 10 if level < 11 else inner
        resources = f"/Resources << /XObject << /F {6 + level} 0 R >> >>" if level < 11 else ""
        forms.append(
            f"<< /Type /XObject /Subtype /Form /BBox [0 0 72 36] {resources} "
            f"/Length {len(content)} >>\nstream\n{content}\nendstream"
        )
    return one_page("/F Do", *forms, page="/Resources << /XObject << /F 5 0 R >> >>")


@pytest.fixture
def renderer() -> Iterator[DocumentRenderer]:
    """One that gives up on a page after a second."""
    with closing(
        DocumentRenderer(DocumentConfig(page_timeout_s=1, dpi=72, max_page_px=512))
    ) as renderer:
        yield renderer


def process_id(renderer: DocumentRenderer) -> int:
    """The child's."""
    assert renderer._child is not None
    return renderer._child.process.pid


def colour(page: Image.Image) -> str:
    """The name of a page's colour, whatever JPEG did to it."""
    pixel = page.getpixel((page.width // 2, page.height // 2))
    assert isinstance(pixel, tuple)
    return COLOURS[pixel.index(max(pixel))]


def error_of(renderer: DocumentRenderer, data: bytes, page_index: int = 0) -> DocumentError:
    """The error that rendering ends with."""
    with pytest.raises(DocumentError) as caught:
        renderer.render(data, page_index)
    return caught.value


def test_each_page_is_rendered_as_itself(renderer: DocumentRenderer) -> None:
    """In any order, also after another document."""
    data, other = pictures(*COLOURS), pictures("lime")
    assert renderer.page_count(data) == 3
    assert [colour(renderer.render(data, page)) for page in (2, 0, 1)] == ["blue", "red", "lime"]
    assert colour(renderer.render(other, 0)) == "lime"
    assert colour(renderer.render(data, 0)) == "red"


def test_a_document_is_sent_once_for_all_its_pages(
    renderer: DocumentRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand pages of a large document must not send it a thousand times."""
    sent: list[int] = []
    exchange = Child.exchange

    def counted(child: Child, header: object, payload: bytes, *rest: object) -> object:
        sent.append(len(payload))
        return exchange(child, header, payload, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Child, "exchange", counted)
    data = pictures(*COLOURS)
    renderer.page_count(data)
    for page in range(3):
        renderer.render(data, page)
    assert sent == [len(data), 0, 0, 0]


@pytest.mark.parametrize(
    ("size", "dpi", "max_px", "rendered"),
    [
        ((72, 36), 72, 512, (72, 36)),
        ((72, 36), 144, 512, (144, 72)),
        ((72, 36), 1200, 512, (512, 256)),
        ((14400, 14400), 1200, 64, (64, 64)),
        ((36, 14400), 72, 100, (1, 100)),
    ],
)
def test_the_scale_is_clamped_before_rendering(
    size: tuple[int, int], dpi: int, max_px: int, rendered: tuple[int, int]
) -> None:
    """A page may claim to be five metres long; 256 MiB do not hold it at 1200 dpi."""
    box = f"0 0 {size[0]} {size[1]}"
    config = DocumentConfig(dpi=dpi, max_page_px=max_px, memory_gib=0.25)
    with closing(DocumentRenderer(config)) as renderer:
        assert renderer.render(one_page("1 0 0 rg", box=box), 0).size == rendered


def test_a_pages_own_rotation_is_applied(renderer: DocumentRenderer) -> None:
    """Scanners store pages on their side and say so."""
    content = "1 0 0 rg 0 0 36 36 re f"  # the left half is red
    upright = renderer.render(one_page(content), 0)
    turned = renderer.render(one_page(content, page="/Rotate 90"), 0)
    assert (upright.size, turned.size) == ((72, 36), (36, 72))
    assert upright.getpixel((10, 18)) == turned.getpixel((18, 10)) == (255, 0, 0)
    assert turned.getpixel((18, 60)) == (255, 255, 255)


@pytest.mark.parametrize("data", [b"", b"no PDF", b"%PDF-1.4\n", pictures("red")[:200]])
def test_what_is_no_pdf_is_unreadable(data: bytes, renderer: DocumentRenderer) -> None:
    """The process survives and serves the next document."""
    with pytest.raises(DocumentError, match="not a PDF") as caught:
        renderer.page_count(data)
    assert caught.value.code == "document_unreadable"
    before = process_id(renderer)
    assert colour(renderer.render(pictures("red"), 0)) == "red"
    assert process_id(renderer) == before


def test_a_password_is_an_error_of_its_own(renderer: DocumentRenderer) -> None:
    """Its owner can do something about it."""
    keys = f"/V 1 /R 2 /P -4 /O <{'00' * 32}> /U <{'00' * 32}>"
    data = handmade(
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [] /Count 0 >>",
        f"<< /Filter /Standard {keys} >>",
        trailer="/Encrypt 3 0 R /ID [<00><00>]",
    )
    assert error_of(renderer, data).code == "document_encrypted"


def test_a_document_without_pages_is_unreadable(renderer: DocumentRenderer) -> None:
    """It would otherwise vanish: no pages, no rows."""
    data = handmade("<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [] /Count 0 >>")
    assert error_of(renderer, data).code == "document_unreadable"


def test_too_many_pages_are_an_error_and_never_cut() -> None:
    """The message names the setting."""
    with closing(DocumentRenderer(DocumentConfig(max_pages=2))) as renderer:
        assert renderer.page_count(pictures("red", "red")) == 2
        with pytest.raises(DocumentError, match=r"3 pages.*max_pages") as caught:
            renderer.page_count(pictures(*COLOURS))
    assert (caught.value.code, caught.value.is_retryable) == ("document_too_long", True)


def test_a_bad_page_leaves_the_others(renderer: DocumentRenderer) -> None:
    """Pages are rows of their own."""
    data = handmade(
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R 4 0 R] /Count 2 >>",
        "<< /Type /Nonsense >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 72 36] >>",
    )
    assert renderer.page_count(data) == 2
    assert error_of(renderer, data, 0).code == "page_unreadable"
    assert renderer.render(data, 1).size == (72, 36)
    assert error_of(renderer, data, 2).code == "page_unreadable"


def test_a_hanging_page_is_killed_and_the_next_document_works(renderer: DocumentRenderer) -> None:
    """The page keeps pdfium itself busy for hours; nothing short of a signal ends that."""
    data = endless()
    assert renderer.page_count(data) == 1
    hanging = process_id(renderer)
    start = time.monotonic()
    error = error_of(renderer, data)
    assert (error.code, error.is_retryable) == ("page_timeout", True)
    assert "page_timeout_s" in str(error)
    assert time.monotonic() - start < 5
    with pytest.raises(ProcessLookupError):
        os.kill(hanging, 0)
    assert colour(renderer.render(pictures("blue"), 0)) == "blue"


def test_a_child_that_stops_reading_does_not_hang_us(renderer: DocumentRenderer) -> None:
    """A large document does not fit into the pipe."""
    renderer.page_count(pictures("red"))
    os.kill(process_id(renderer), signal.SIGSTOP)
    large = pictures("blue") + bytes(1 << 20)
    with pytest.raises(DocumentError) as caught:
        renderer.page_count(large)
    assert caught.value.code == "document_timeout"
    assert renderer.page_count(large) == 1


def test_a_killed_child_is_replaced(renderer: DocumentRenderer) -> None:
    """The system's memory killer may take it between two pages: no page is lost by that."""
    data = pictures(*COLOURS)
    renderer.page_count(data)
    killed = process_id(renderer)
    os.kill(killed, signal.SIGKILL)
    assert colour(renderer.render(data, 2)) == "blue"
    assert process_id(renderer) != killed


def test_a_document_that_kills_each_child_is_an_error(
    renderer: DocumentRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two attempts, then a row; not a loop, and not the end of the worker."""
    data = pictures(*COLOURS)
    renderer.page_count(data)
    exchange, killed = Child.exchange, []

    def deadly(child: Child, header: dict[str, object], *rest: object) -> object:
        if header["command"] == "render":
            killed.append(child.process.pid)
            os.kill(child.process.pid, signal.SIGKILL)
        return exchange(child, header, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Child, "exchange", deadly)
    error = error_of(renderer, data)
    monkeypatch.undo()
    assert (error.code, "signal 9" in str(error)) == ("page_crashed", True)
    assert len(set(killed)) == 2
    assert colour(renderer.render(data, 0)) == "red"


def test_memory_is_limited(renderer: DocumentRenderer) -> None:
    """Beyond it the process fails, and neither this one nor the machine."""
    config = DocumentConfig(memory_gib=0.25, dpi=1200, max_page_px=16384)
    huge = one_page("1 0 0 rg", box="0 0 14400 14400")
    with closing(DocumentRenderer(config)) as renderer:
        assert error_of(renderer, huge).code in ("page_unreadable", "page_crashed")
        assert renderer.render(one_page("1 0 0 rg"), 0).size == (1200, 600)


def test_the_child_is_recycled(renderer: DocumentRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What leaks in pdfium must not add up over a million documents."""
    monkeypatch.setattr(documents, "DOCUMENTS_PER_CHILD", 2)
    children = []
    for number in range(4):
        renderer.page_count(pictures("red", size=(72, 36 + number)))
        children.append(process_id(renderer))
    assert children[0] == children[1] != children[2] == children[3]


def test_threads_take_turns(renderer: DocumentRenderer) -> None:
    """Each gets the pages of its own document."""
    wrong: list[str] = []

    def work(name: str) -> None:
        data = pictures(name)
        wrong.extend(name for _ in range(5) if colour(renderer.render(data, 0)) != name)

    threads = [threading.Thread(target=work, args=(name,)) for name in COLOURS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_close_ends_the_process(renderer: DocumentRenderer) -> None:
    """And a closed renderer starts another when it is asked again."""
    renderer.page_count(pictures("red"))
    child = process_id(renderer)
    renderer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert renderer.page_count(pictures("red")) == 1


def test_documents_are_rows_by_uri(tmp_path: Path) -> None:
    """PDFs only, however deep; what changes on disk changes its content id alone."""
    (tmp_path / "deep").mkdir()
    for name in ("b.pdf", "deep/a.PDF", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    rows = list(document_rows([str(tmp_path)]))
    assert [row.row_id for row in rows] == [f"{tmp_path}/b.pdf", f"{tmp_path}/deep/a.PDF"]
    assert {row.kind for row in rows} == {"document"}
    (tmp_path / "b.pdf").write_bytes(b"xy")
    again = list(document_rows([str(tmp_path)]))
    assert again[0].row_id == rows[0].row_id
    assert again[0].content_id != rows[0].content_id
    assert again[1] == rows[1]


def test_no_documents_are_a_mistake_in_the_job(tmp_path: Path) -> None:
    """Said at once, with what there is instead."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"input.documents: nothing found .* notes.txt"):
        document_rows([f"{tmp_path}/*.pdf"])


FONT = "/Resources << /Font << /F << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"


def written(*lines: str, size: int = 8) -> bytes:
    """A PDF with one page of text."""
    moves = "".join(f"({line}) Tj 0 -{size} Td " for line in lines)
    return one_page(f"BT /F {size} Tf 2 28 Td {moves} ET", page=FONT)


def test_the_text_layer_is_what_the_page_says(renderer: DocumentRenderer) -> None:
    """In lines; a scan says nothing."""
    assert renderer.text(written("Hello page,", "two lines"), 0) == "Hello page,\ntwo lines"
    assert renderer.text(pictures("red"), 0) == ""


def test_the_text_layer_is_cut_where_it_is_too_long(renderer: DocumentRenderer) -> None:
    """A page may hold a book in invisible letters."""
    assert renderer.text(written("x" * 1000), 0, max_chars=30) == "x" * 30


def test_control_characters_are_no_text(renderer: DocumentRenderer) -> None:
    """Pdfium reports what it cannot map, and hyphens at the end of lines, as such."""
    found = renderer.text(written("a\\002b\\000c\\177d", "e"), 0)
    assert found.endswith("e")
    assert all(character.isprintable() or character == "\n" for character in found)


def test_a_page_whose_text_cannot_be_read_has_none(renderer: DocumentRenderer) -> None:
    """The picture is what counts, and it was made already."""
    assert renderer.text(written("one page"), 5) == ""
    assert renderer.text(b"no PDF", 0) == ""
    assert renderer.text(written("one page"), 0) == "one page"


def test_a_hanging_text_layer_costs_little(
    renderer: DocumentRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up sooner than a page, and the next page is rendered as if nothing was."""
    monkeypatch.setattr(documents, "TEXT_TIMEOUT_S", 0.2)
    data = written("Hello")
    assert renderer.page_count(data) == 1
    os.kill(process_id(renderer), signal.SIGSTOP)
    begun_s = time.monotonic()
    assert renderer.text(data, 0) == ""
    assert time.monotonic() - begun_s < 0.9
    assert renderer.render(data, 0).size == (72, 36)
    assert renderer.text(data, 0) == "Hello"


def test_a_dead_process_is_replaced_for_the_next_page(renderer: DocumentRenderer) -> None:
    """A text layer that kills it must not fail the document."""
    data = written("Hello")
    renderer.page_count(data)
    os.kill(process_id(renderer), signal.SIGKILL)
    assert renderer.text(data, 0) == ""
    assert renderer.text(data, 0) == "Hello"
