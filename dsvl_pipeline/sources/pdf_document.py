"""A PDF that pdfium and qpdf have opened: how many pages it has, and what is wrong with it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pikepdf
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from dsvl_pipeline.sources import page_tree
from dsvl_pipeline.wording import amount


class Refused(Exception):  # noqa: N818 (it is an answer, not an accident)
    """Carries code and message of an answer with ``error``, and whether it may pass."""

    def __init__(self, code: str, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(code, message, is_retryable)


Defect = tuple[str, str]
"""Code and message: the picture is there, but is not all that there is to see."""

_Structure = tuple[pikepdf.Pdf, page_tree.Survey]


@dataclass(slots=True)
class Document:
    """A document that pdfium has opened.

    Attributes:
        data: The document.
        password: Opens it; may be empty.
        pdf: Of pdfium.
        num_pages: Pages that rows are made of.
        most: How many pages of its tree are looked at.
        places: For each page its index in ``pdf``, None where there is nothing to render. All are
            at their own where this is None.
        user_units: See `page_tree.Survey`.
        defects: Of every page.
    """

    data: bytes
    password: str
    pdf: pdfium.PdfDocument
    num_pages: int
    most: int
    places: list[int | None] | None = None
    user_units: dict[int, float] = field(default_factory=dict)
    defects: list[Defect] = field(default_factory=list)
    is_rewritten: bool = False

    def page(self, page_index: int) -> pdfium.PdfPage:
        """Load a page.

        Raises:
            Refused: ``page_unreadable``.
        """
        if not 0 <= page_index < self.num_pages:
            raise Refused(
                "page_unreadable", f"is not among the document's {amount(self.num_pages, 'page')}"
            )
        try:
            return self._load(page_index)
        except (pdfium.PdfiumError, IndexError, ValueError) as error:
            reason = f"cannot be rendered ({error})"
        # qpdf finds what a damaged index does not.
        if not self.is_rewritten:
            self.is_rewritten = True
            with suppress(*page_tree.FAILURES):
                structure, found = self.structure()
                with structure:
                    self.rewrite(structure, found)
            with suppress(pdfium.PdfiumError, IndexError, ValueError):
                return self._load(page_index)
        raise Refused("page_unreadable", reason)

    def _load(self, page_index: int) -> pdfium.PdfPage:
        at = page_index if self.places is None else self.places[page_index]
        if at is None:
            raise Refused(
                "page_unreadable", "is in the document's page tree, but its object is missing"
            )
        return self.pdf[at]

    def structure(self) -> _Structure:
        """Open the document with qpdf, and walk its page tree.

        Where pages seem to be missing, or nothing can be read, it is read again as pdfium writes
        it: qpdf takes an object that it cannot read for missing, as for an integer that is too
        large, and pdfium reads what it can of it. A document whose index is damaged has lost such
        pages without a trace.

        Raises:
            One of `page_tree.FAILURES`: Neither can be walked.
        """
        walks: list[_Structure] = []
        failures: list[Exception] = []
        for is_anew in (False, True):
            try:
                data = self._written_anew() if is_anew else self.data
                walks.append(_walked(data, "" if is_anew else self.password, self.most))
            except page_tree.FAILURES as error:
                failures.append(error)
            else:
                found = walks[0][1]
                is_less = found.is_odd or len(found.pages) < len(self.pdf)
                if found.is_cut or not is_less:
                    break
        if not walks:
            raise failures[0]
        (structure, found), (other, found_otherwise) = walks[0], walks[-1]
        if found_otherwise.fullness > found.fullness:
            structure.close()
            # pdfium corrects what it writes there.
            count, num_pages = found.root_count, len(found_otherwise.pages)
            page_tree.compare(found_otherwise, count, num_pages, is_root=True)
            return other, found_otherwise
        if other is not structure:
            other.close()
        return structure, found

    def _written_anew(self) -> bytes:
        """Write the document as pdfium understands it, without encryption."""
        out = io.BytesIO()
        with pdfium.PdfDocument(self.data, password=self.password or None) as pdf:
            pdf.save(out, flags=pdfium_c.FPDF_REMOVE_SECURITY)
        return out.getvalue()

    def rewrite(self, structure: pikepdf.Pdf, found: page_tree.Survey) -> None:
        """Let pdfium read the document with a page tree in which it finds all pages."""
        self.is_rewritten = True
        if len(found.pages) != self.num_pages:
            return
        try:
            pdf = pdfium.PdfDocument(page_tree.rewritten(structure, found))
        except (pdfium.PdfiumError, *page_tree.FAILURES):
            return  # pages beyond its own count are errors
        self.pdf.close()
        self.pdf = pdf
        self.pdf.init_forms()
        numbers = iter(range(len(found.pages)))
        self.places = [None if page is None else next(numbers) for page in found.pages]


def _walked(data: bytes, password: str, most: int) -> _Structure:
    structure = page_tree.open_pdf(data, password)
    try:
        return structure, page_tree.survey(structure, most)
    except page_tree.FAILURES:
        structure.close()
        raise


def open_document(data: bytes, *, password: str | None, max_pages: int) -> Document:
    """Parse a document, and find all of its pages.

    Of one with more than ``max_pages`` only so much is sure.

    Raises:
        Refused: ``document_encrypted`` or ``document_unreadable``.
    """
    pdf, used = _unlocked(data, password)
    # Without this, what was filled into a form's fields would be missing from the picture.
    pdf.init_forms()
    document = Document(data, used, pdf, num_pages=len(pdf), most=max_pages + 1)
    try:
        structure, found = document.structure()
    except page_tree.FAILURES:
        message = "whether these are all pages of the document could not be checked: qpdf, which "
        message += "reads its page tree, cannot read it"
        document.defects.append(("page_count", message))
    else:
        with structure:
            with suppress(*page_tree.FAILURES):
                document.defects += _kind_defects(document, structure)
            with suppress(*page_tree.FAILURES):
                _look_through(document, structure, found)
    if document.num_pages == 0:
        raise Refused("document_unreadable", "holds no pages")
    return document


def _unlocked(data: bytes, password: str | None) -> tuple[pdfium.PdfDocument, str]:
    """Open a document, and tell by which password."""
    # Who gives a password has other documents, too, which need none, or have their owner's alone.
    for attempt in ("", password):
        if attempt is None:
            raise Refused(
                "document_encrypted",
                "needs a password; give input.document.password",
                is_retryable=True,
            )
        try:
            return pdfium.PdfDocument(data, password=attempt or None), attempt
        except pdfium.PdfiumError as error:
            code = getattr(error, "err_code", None)
            if code == pdfium_c.FPDF_ERR_SECURITY:
                raise Refused(
                    "document_encrypted", "is encrypted in a way that pdfium does not know"
                ) from None
            if code != pdfium_c.FPDF_ERR_PASSWORD:
                message = f"is not a PDF that can be read ({error})"
                raise Refused("document_unreadable", message) from None
    raise Refused(
        "document_encrypted",
        "needs another password than the given one, which does not fit; correct "
        "input.document.password",
        is_retryable=True,
    )


def _look_through(document: Document, structure: pikepdf.Pdf, found: page_tree.Survey) -> None:
    """Compare what pdfium shows with what is there, and mend what it would not find."""
    document.user_units = found.user_units
    num_found, num_shown = len(found.pages), document.num_pages
    if found.is_cut and num_found < document.most:
        raise Refused("document_unreadable", "has a page tree that does not end")
    if found.is_cut:
        document.num_pages = max(num_found, num_shown)
        return
    if num_shown > num_found and not found.is_odd and _can_load(document.pdf, num_found):
        document.defects.append(_miscount(f"{num_shown:,}", num_found))  # pdfium knows of more
        return
    if None in found.pages:
        shown = [at for at in range(min(num_shown, document.most)) if _can_load(document.pdf, at)]
        if len(shown) > found.num_there:
            document.num_pages = max(shown[-1] + 1, num_found)
            if document.num_pages != num_shown:
                document.defects.append(_miscount(f"{num_shown:,}", document.num_pages))
            document.is_rewritten = True  # it would lose pages
            return
    document.num_pages = num_found
    if found.is_odd or num_shown < num_found:
        document.rewrite(structure, found)
    if found.miscount is not None:
        what = "the document" if found.is_root_miscounted else "a part of its page tree"
        document.defects.append(_miscount(*found.miscount, what=what))


def _miscount(says: str, holds: int, *, what: str = "the document") -> Defect:
    return (
        "page_count",
        f"{what} gives {says} as the number of its pages, but {holds:,} were found in it; some "
        "may be missing, or not belong to it",
    )


def _can_load(pdf: pdfium.PdfDocument, page_index: int) -> bool:
    try:
        pdf[page_index].close()
    except (pdfium.PdfiumError, IndexError, ValueError):
        return False
    return True


def _kind_defects(document: Document, structure: pikepdf.Pdf) -> Iterator[Defect]:
    """Yield defects of documents whose pages stand for something else."""
    if page_tree.is_portfolio(structure):
        num_files = pdfium_c.FPDFDoc_GetAttachmentCount(document.pdf)
        yield (
            "document_portfolio",
            "the document is a portfolio: its pages are the cover of "
            f"{amount(num_files, 'embedded file')}, not read here; extract what they hold and name "
            "it as documents of their own",
        )
    form = page_tree.xfa_of(structure)
    if form is not None and _is_placeholder(document, form):
        yield (
            "document_xfa",
            "the document is a dynamic XFA form: its pages are made by the viewer that opens it, "
            "and what stands here is a placeholder; print it to PDF with Adobe's Reader",
        )


def _is_placeholder(document: Document, form: page_tree.Xfa) -> bool:
    """Return whether an XFA form's pages are made only when it is opened.

    Static forms have their pages, and nearly always fields on them.
    """
    if form.is_dynamic is not None:
        return form.is_dynamic
    if document.num_pages != 1:
        return False
    with suppress(Refused):
        return not form.has_fields or "please wait" in read_text(document, 0, 1000).lower()
    return True


def read_text(document: Document, page_index: int, max_chars: int) -> str:
    """Read the beginning of a page's text layer; empty where it has none.

    Raises:
        Refused: ``page_unreadable``.
    """
    page = document.page(page_index)
    try:
        text_page = page.get_textpage()
        count = min(text_page.count_chars(), max_chars)
        text: str = text_page.get_text_range(0, count) if count > 0 else ""
    except (pdfium.PdfiumError, IndexError, ValueError) as error:
        raise Refused("page_unreadable", f"has no text that can be read ({error})") from None
    page.close()  # with its text page
    return text
