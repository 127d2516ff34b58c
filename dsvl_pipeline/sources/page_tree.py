"""What pdfium does not tell of a PDF: its page tree, and whether its pages are all there is.

pdfium believes a document's own count of its pages, and shows no others. Here the tree is walked
with qpdf (pikepdf), and written anew where pdfium would get lost in it. Part of the process of
``pdf_child.py``: a hostile tree may take time and memory, and imports nothing of the pipeline.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pikepdf

_INHERITABLE = ("/Resources", "/MediaBox", "/CropBox", "/Rotate")
_MAX_CONFIG_BYTES = 1 << 20


FAILURES = (
    pikepdf.PikepdfError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a damaged document may end with, in every function here; pdfium may do better."""


@dataclass(slots=True)
class Survey:
    """The pages of a document, as its tree has them.

    Attributes:
        pages: Dictionary of each page with its node in the tree; None where the tree names an
            object that is not there.
        root_count: The root's own count, whatever that is.
        user_units: Size of a page's unit in points by its index, where that is not 1.
        miscount: What a node says, in words, and what it holds, where the two differ; the root's
            first.
        is_root_miscounted: Whether it is that of the whole document.
        is_odd: Whether there is anything in the tree but pages and nodes that hold some.
        is_cut: Whether there are more pages, or no end of them.
    """

    pages: list[tuple[Any, _Node] | None] = field(default_factory=list)
    root_count: Any = None
    user_units: dict[int, float] = field(default_factory=dict)
    miscount: tuple[str, int] | None = None
    is_root_miscounted: bool = False
    is_odd: bool = False
    is_cut: bool = False

    @property
    def fullness(self) -> tuple[int, int]:
        """Order surveys of one document: by pages that are there, then by those that should be."""
        return self.num_there, len(self.pages)

    @property
    def num_there(self) -> int:
        """Count the pages whose objects are there."""
        return len(self.pages) - self.pages.count(None)


@dataclass(slots=True)
class _Node:
    """An inner node on the way down: what is left of its kids, and how many pages came before."""

    content: Any
    parent: _Node | None
    kids: Iterator[Any]
    num_before: int


def open_pdf(data: bytes, password: str) -> pikepdf.Pdf:
    """Open a document without touching its pages, by a password that pdfium takes."""
    try:
        return _open(data, password)
    except pikepdf.PasswordError:  # pdfium tries both ways to spell it in bytes
        return _open(data, password.encode("latin-1"))


def _open(data: bytes, password: str | bytes) -> pikepdf.Pdf:
    # By default the tree is mended in qpdf's way, which drops what is not there.
    options: dict[str, Any] = {"password": password, "inherit_page_attributes": False}
    if not hasattr(os, "memfd_create"):
        return pikepdf.open(io.BytesIO(data), **options)
    # What has a path is mapped into memory. From Python qpdf would read a damaged document line
    # by line, ten times as slow.
    with os.fdopen(os.memfd_create("document"), "wb") as file:
        file.write(data)
        file.flush()
        return pikepdf.open(f"/proc/self/fd/{file.fileno()}", **options)


def survey(pdf: pikepdf.Pdf, most: int) -> Survey:
    """Walk the page tree, to its end or until there are so many pages.

    What has kids is a node. What has none is a page, whatever it calls itself, except for a node
    that is empty. A page that is named twice is two pages. A node below itself is left out.

    Raises:
        ValueError: There is no tree; or one of `FAILURES`.
    """
    found, root = Survey(), pdf.Root.get("/Pages")
    if not isinstance(root, pikepdf.Dictionary):
        raise ValueError("there is no page tree")
    found.root_count = root.get("/Count")
    if _is_leaf(root):
        _add_leaf(found, root, _Node(root, None, iter(()), 0))
        return found
    node: _Node | None = _Node(root, None, iter(root.Kids), 0)
    path = {root.objgen}
    num_steps = 0
    while node is not None:
        num_steps += 1
        # A tree of shared nodes may be of any size without a single page.
        if len(found.pages) >= most or num_steps > 10 * most + 10_000:
            found.is_cut = True
            return found
        try:
            kid = next(node.kids)
        except StopIteration:
            _check_count(found, node)
            path.discard(node.content.objgen)
            node = node.parent
            continue
        if not isinstance(kid, pikepdf.Dictionary):
            found.pages.append(None)
            found.is_odd = True
        elif _is_leaf(kid):
            _add_leaf(found, kid, node)
        elif kid.is_indirect and kid.objgen in path:
            found.is_odd = True
        else:
            path.add(kid.objgen)
            node = _Node(kid, node, iter(kid.Kids), len(found.pages))
    return found


def _is_leaf(kid: Any) -> bool:
    kids = kid.get("/Kids")
    if not isinstance(kids, pikepdf.Array):
        return True
    return not len(kids) and ("/Contents" in kid or kid.get("/Type") == pikepdf.Name.Page)


def _add_leaf(found: Survey, leaf: Any, node: _Node) -> None:
    calls_itself = leaf.get("/Type")
    if (
        calls_itself not in (None, pikepdf.Name.Page, pikepdf.Name.Pages)
        and "/Contents" not in leaf
        and "/MediaBox" not in leaf
    ):
        found.pages.append(None)  # it is something else, and shows nothing
        found.is_odd = True
        return
    if leaf.get("/Type") == pikepdf.Name.Pages and "/Contents" not in leaf:
        found.is_odd = True
        compare(found, leaf.get("/Count"), 0, is_root=node.content is leaf)
        return
    found.is_odd |= "/Kids" in leaf
    unit = number(leaf.get("/UserUnit"))
    if unit is not None and unit > 0 and unit != 1:
        found.user_units[len(found.pages)] = unit
    found.pages.append((leaf, node))


def _check_count(found: Survey, node: _Node) -> None:
    num_pages = len(found.pages) - node.num_before
    found.is_odd |= not num_pages  # pdfium takes an empty node for a page
    compare(found, node.content.get("/Count"), num_pages, is_root=node.parent is None)


def compare(found: Survey, count: Any, num_pages: int, *, is_root: bool) -> None:
    """Hold a node's own count against the pages below it; one without a count says nothing."""
    says = number(count)
    if says is not None and says != num_pages and (is_root or found.miscount is None):
        shown = f"{count:,}" if isinstance(count, int) else f"{count:.9g}"
        found.miscount = (shown, num_pages)
        found.is_root_miscounted = is_root


def number(value: Any) -> float | None:
    """Return a PDF number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    return value if isinstance(value, int) else float(value)


def rewritten(pdf: pikepdf.Pdf, found: Survey) -> bytes:
    """Write the document with a flat page tree of the pages that are there."""
    taken: set[tuple[int, int]] = set()
    kids = []
    for leaf, node in filter(None, found.pages):
        # A page has one parent, so one that is named twice is copied, before anything is added.
        is_copy = not leaf.is_indirect or leaf.objgen in taken
        page = pdf.make_indirect(pikepdf.Dictionary(dict(leaf.items()))) if is_copy else leaf
        taken.add(page.objgen)
        kids.append((page, _inherited(leaf, node)))
    root = pdf.make_indirect(
        pikepdf.Dictionary(
            Type=pikepdf.Name.Pages, Count=len(kids), Kids=pikepdf.Array(page for page, _ in kids)
        )
    )
    for page, inherited in kids:
        for name, value in inherited.items():
            page[name] = value
        if "/Kids" in page:
            del page["/Kids"]
        page["/Type"] = pikepdf.Name.Page
        page["/Parent"] = root
    pdf.Root["/Pages"] = root
    out = io.BytesIO()
    pdf.save(
        out,
        encryption=False,
        compress_streams=False,
        stream_decode_level=pikepdf.StreamDecodeLevel.none,
    )
    return out.getvalue()


def _inherited(leaf: Any, node: _Node | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    while node is not None:
        for name in _INHERITABLE:
            if name not in leaf and name not in values and name in node.content:
                values[name] = node.content[name]
        node = node.parent
    return values


def is_portfolio(pdf: pikepdf.Pdf) -> bool:
    """Return whether the pages are only the cover of other files; attachments alone do not."""
    return isinstance(pdf.Root.get("/Collection"), pikepdf.Dictionary)


@dataclass(frozen=True, slots=True, kw_only=True)
class Xfa:
    """A form that viewers of XFA lay out themselves.

    Attributes:
        is_dynamic: Whether it says that its pages are made when it is opened; None where it says
            neither this nor the contrary.
        has_fields: Whether there are fields on its pages, as static forms have.
    """

    is_dynamic: bool | None
    has_fields: bool


def xfa_of(pdf: pikepdf.Pdf) -> Xfa | None:
    """Describe the document's XFA form; None without one."""
    form = pdf.Root.get("/AcroForm")
    if not isinstance(form, pikepdf.Dictionary) or "/XFA" not in form:
        return None
    fields = form.get("/Fields")
    config = _xfa_config(form.get("/XFA"))
    needs = True in (pdf.Root.get("/NeedsRendering"), form.get("/NeedsRendering"))
    is_dynamic: bool | None = None
    if needs or b"dynamicRender>required<" in config:
        is_dynamic = True
    elif b"dynamicRender>forbidden<" in config:
        is_dynamic = False
    return Xfa(
        is_dynamic=is_dynamic, has_fields=isinstance(fields, pikepdf.Array) and len(fields) > 0
    )


def _xfa_config(xfa: Any) -> bytes:
    """Read the beginning of the form's configuration; empty where it cannot be read cheaply."""
    if isinstance(xfa, pikepdf.Array):  # name, stream, name, stream ...
        packets = {str(xfa[i]): xfa[i + 1] for i in range(0, len(xfa) - 1, 2)}
        xfa = packets.get("config")
    if not isinstance(xfa, pikepdf.Stream):
        return b""
    raw = xfa.read_raw_bytes()
    coding = xfa.get("/Filter")
    if coding in (pikepdf.Name.FlateDecode, pikepdf.Array([pikepdf.Name.FlateDecode])):
        try:
            raw = zlib.decompressobj().decompress(raw, _MAX_CONFIG_BYTES)
        except zlib.error:
            return b""
    return b"".join(raw[:_MAX_CONFIG_BYTES].split())
