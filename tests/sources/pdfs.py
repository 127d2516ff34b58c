"""PDFs made by hand, with page trees as tests want them."""

from __future__ import annotations

import zlib


def pdf(objects: dict[int, str], *, root: str = "", pages: int = 2, trailer: str = "") -> bytes:
    """A PDF of numbered objects, with its index; object 1 is the catalogue and 3 the font F.

    Args:
        objects: Text of each by its number.
        root: More entries of the catalogue.
        pages: Number of the page tree's root.
        trailer: More entries of the trailer.
    """
    objects = {
        1: f"<< /Type /Catalog /Pages {pages} 0 R {root} >>",
        3: "<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>",
        **objects,
    }
    body, places = b"%PDF-1.7\n", {}
    for number, text in sorted(objects.items()):
        places[number] = len(body)
        body += f"{number} 0 obj\n{text}\nendobj\n".encode("latin-1")
    size, index = max(objects) + 1, len(body)
    body += f"xref\n0 {size}\n".encode()
    for number in range(size):
        is_there = number in places
        body += b"%010d %05d %s \n" % (
            places.get(number, 0),
            0 if is_there else 65535,
            b"n" if is_there else b"f",
        )
    end = f"trailer\n<< /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{index}\n%%EOF\n"
    return body + end.encode()


def page(
    number: int,
    word: str,
    *,
    box: str = "0 0 200 100",
    own: str = "",
    kind: str = "/Type /Page",
    parent: int = 2,
) -> dict[int, str]:
    """A page that shows a word: an object, and its content as the next one."""
    content = f"BT /F 24 Tf 10 40 Td ({word}) Tj ET"
    box = f"/MediaBox [{box}]" if box else ""
    return {
        number: f"<< {kind} /Parent {parent} 0 R {box} /Resources << /Font << /F 3 0 R >> >> "
        f"/Contents {number + 1} 0 R {own} >>",
        number + 1: f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
    }


def tree(
    kids: str = "10 0 R 12 0 R 14 0 R", count: str = "/Count 3", *, root: str = "", **more: str
) -> bytes:
    """A PDF of the pages ONE, TWO and THREE: objects 10, 12 and 14.

    Args:
        kids: Of the tree's root.
        count: What it says of them.
        root: More entries of the catalogue.
        more: Other objects, ``_20`` for number 20.
    """
    objects = {2: f"<< /Type /Pages {count} /Kids [{kids}] >>"}
    for number, word in ((10, "ONE"), (12, "TWO"), (14, "THREE")):
        objects |= page(number, word)
    return pdf(objects | {int(name[1:]): text for name, text in more.items()}, root=root)


def stream(text: str, *, is_packed: bool = False) -> str:
    """A stream object."""
    if is_packed:
        packed = zlib.compress(text.encode()).decode("latin-1")
        return f"<< /Filter /FlateDecode /Length {len(packed)} >>\nstream\n{packed}\nendstream"
    return f"<< /Length {len(text)} >>\nstream\n{text}\nendstream"
