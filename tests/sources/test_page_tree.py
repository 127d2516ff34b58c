"""Documents whose pages are not what they say: each page gets its row, and what is wrong is told.

Every page shows a word, so that none can be taken for another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from dsvl_pipeline.errors import DocumentError
from dsvl_pipeline.job.inputs import DocumentConfig
from dsvl_pipeline.sources.documents import DocumentRenderer
from tests.sources.pdfs import page, pdf, stream, tree

THREE = ["ONE", "TWO", "THREE"]


@pytest.fixture(scope="module")
def renderer() -> Iterator[DocumentRenderer]:
    """One for all tests: no document may disturb the next."""
    config = DocumentConfig(dpi=36, max_page_px=512, max_pages=100)
    with closing(DocumentRenderer(config)) as renderer:
        yield renderer


def words(renderer: DocumentRenderer, data: bytes) -> list[str]:
    """What each page shows; the code of its error where it cannot be rendered."""
    found = []
    for page_index in range(renderer.page_count(data)):
        try:
            renderer.render(data, page_index)
            found.append(renderer.text(data, page_index))
        except DocumentError as error:
            found.append(error.code)
    return found


def defects(renderer: DocumentRenderer, data: bytes) -> set[str | None]:
    """The codes that its pages have."""
    found = set()
    for page_index in range(renderer.page_count(data)):
        try:
            defect = renderer.page(data, page_index).defect
            found.add(defect and defect.code)
        except DocumentError as error:
            found.add(error.code)
    return found


def nested(count: int, first: str, second: str, *, kids: str = "10 0 R 12 0 R") -> bytes:
    """Two nodes, with two pages and one; the first is turned, and both have sizes to inherit."""
    return pdf(
        {
            2: f"<< /Type /Pages /Count {count} /Kids [20 0 R 22 0 R] /MediaBox [0 0 200 100] >>",
            20: f"<< /Type /Pages /Parent 2 0 R {first} /Kids [{kids}] /Rotate 90 >>",
            22: f"<< /Type /Pages /Parent 2 0 R {second} /Kids [14 0 R] >>",
            **page(10, "ONE", box="", parent=20),
            **page(12, "TWO", box="0 0 50 80", own="/Rotate 0", parent=20),
            **page(14, "THREE", box="", parent=22),
        }
    )


@pytest.mark.parametrize(
    "count", ["1", "2", "4", "100", "200000", "0", "-1", "-3", "1.5", "20 0 R", "4294967297"]
)
def test_all_pages_are_there_whatever_their_count_says(
    count: str, renderer: DocumentRenderer
) -> None:
    """Pdfium believes a positive count, and shows no more pages than that."""
    data = tree(count=f"/Count {count}", _20="2")
    assert words(renderer, data) == THREE
    assert defects(renderer, data) == {"page_count"}


@pytest.mark.parametrize("count", ["3", "3.0", "20 0 R", "null", "(3)", "/Three", "[3]", "true"])
def test_a_count_that_is_right_or_no_number_contradicts_nothing(
    count: str, renderer: DocumentRenderer
) -> None:
    """There are no two countings to disagree."""
    for data in (tree(count=f"/Count {count}", _20="3"), tree(count="")):
        assert words(renderer, data) == THREE
        assert defects(renderer, data) == {None}


def test_a_wrong_count_is_told_with_both_numbers(renderer: DocumentRenderer) -> None:
    """Who reads the row must see what is wrong with the file."""
    defect = renderer.page(tree(count="/Count 1"), 2).defect
    assert defect is not None
    assert "gives 1 as the number of its pages, but 3 were found" in defect.message


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("nothing", ["null", "99 0 R", "(a)", "7", "[10 0 R]"])
def test_a_kid_that_is_no_page_keeps_its_place(
    nothing: str, count: int, renderer: DocumentRenderer
) -> None:
    """Pages after it keep their numbers; pdfium takes it for one when it counts them."""
    data = tree(f"10 0 R {nothing} 14 0 R", f"/Count {count}")
    assert words(renderer, data) == ["ONE", "page_unreadable", "THREE"]
    codes = {"page_unreadable", None if count == 3 else "page_count"}
    assert defects(renderer, data) == codes


@pytest.mark.parametrize(
    ("kids", "expected"),
    [
        ("null 10 0 R", ["page_unreadable", "ONE"]),
        ("10 0 R null", ["ONE", "page_unreadable"]),
        ("99 0 R 98 0 R 12 0 R", ["page_unreadable", "page_unreadable", "TWO"]),
    ],
)
def test_kids_that_are_missing_first_or_last_keep_their_places(
    kids: str, expected: list[str], renderer: DocumentRenderer
) -> None:
    """The count leaves them out."""
    assert words(renderer, tree(kids, "/Count 1")) == expected


@pytest.mark.parametrize(
    ("count", "first", "second", "code"),
    [
        (3, "/Count 2", "/Count 1", None),
        (3, "", "", None),
        (2, "/Count 2", "/Count 1", "page_count"),  # the root counts its children
        (1, "/Count 1", "/Count 1", "page_count"),
        (3, "/Count 1", "/Count 1", "page_count"),
        (3, "/Count 9", "/Count 0", "page_count"),
        (3, "/Count -2", "/Count 1", "page_count"),
    ],
)
def test_nested_counts_may_all_be_wrong(
    count: int, first: str, second: str, code: str | None, renderer: DocumentRenderer
) -> None:
    """Sizes and rotation are inherited as before, also where the tree had to be written anew."""
    data = nested(count, first, second)
    assert words(renderer, data) == THREE
    assert defects(renderer, data) == {code}
    sizes = [renderer.render(data, n).size for n in range(3)]
    assert sizes == [(50, 100), (25, 40), (100, 50)]


@pytest.mark.parametrize("kids", ["10 0 R 2 0 R 12 0 R", "20 0 R 10 0 R 12 0 R"])
def test_a_node_below_itself_has_no_more_pages(kids: str, renderer: DocumentRenderer) -> None:
    """The walk ends, and pages behind it are there."""
    assert words(renderer, nested(3, "/Count 2", "/Count 1", kids=kids)) == THREE


def test_a_page_that_is_named_twice_is_two_pages(renderer: DocumentRenderer) -> None:
    """Viewers show it twice; so does pdfium where the count is right."""
    expected = ["ONE", "TWO", "ONE", "ONE"]
    for count in (2, 4):
        data = tree("10 0 R 12 0 R 10 0 R 10 0 R", f"/Count {count}")
        assert words(renderer, data) == expected
    # Of one node twice each copy inherits.
    data = nested(1, "/Count 2", "/Count 1", kids="10 0 R 12 0 R 22 0 R")
    assert words(renderer, data) == ["ONE", "TWO", "THREE", "THREE"]
    assert [renderer.render(data, n).size for n in (2, 3)] == [(50, 100), (100, 50)]


@pytest.mark.parametrize("kind", ["", "/Type /Pages", "/Type /Banana", "/Type null"])
def test_a_page_of_another_type_is_a_page(kind: str, renderer: DocumentRenderer) -> None:
    """Viewers go by what it has."""
    objects = {2: "<< /Count 1 /Kids [10 0 R 12 0 R] >>", **page(10, "ONE", kind=kind)}
    assert words(renderer, pdf(objects | page(12, "TWO"))) == ["ONE", "TWO"]


@pytest.mark.parametrize("empty", ["<< /Type /Pages >>", "<< /Type /Pages /Count 0 /Kids [] >>"])
def test_a_node_without_pages_takes_no_page_away(empty: str, renderer: DocumentRenderer) -> None:
    """Pdfium takes it for a page, and loses the last one for it."""
    data = tree("10 0 R 20 0 R 12 0 R", "/Count 2", _20=empty)
    assert words(renderer, data) == ["ONE", "TWO"]
    assert defects(renderer, data) == {None}


def test_pages_that_a_lost_node_had_are_told(renderer: DocumentRenderer) -> None:
    """Nothing else says that they were there."""
    data = tree("10 0 R 20 0 R", "/Count 6", _20="<< /Type /Pages /Count 5 >>")
    assert words(renderer, data) == ["ONE"]
    assert defects(renderer, data) == {"page_count"}


def test_kids_may_stand_elsewhere_or_in_the_tree_itself(renderer: DocumentRenderer) -> None:
    """An array of its own; a page that is no object of its own."""
    objects = {2: "<< /Count 1 /Kids 20 0 R >>", 20: "[10 0 R 12 0 R]"}
    assert words(renderer, pdf(objects | page(10, "ONE") | page(12, "TWO"))) == ["ONE", "TWO"]
    direct = page(10, "ONE")[10]
    data = pdf({2: f"<< /Count 1 /Kids [{direct} 12 0 R] >>", **page(10, "A"), **page(12, "TWO")})
    assert words(renderer, data) == ["A", "TWO"]


def test_a_tree_may_be_a_single_page(renderer: DocumentRenderer) -> None:
    """Its root is the page itself."""
    assert words(renderer, pdf(page(10, "ONE"), pages=10)) == ["ONE"]


@pytest.mark.parametrize("root", ["/Count 3", "/Count 3 /Kids []", "/Count 3 /Kids 99 0 R"])
def test_a_tree_that_lost_all_its_pages_is_an_error(root: str, renderer: DocumentRenderer) -> None:
    """Pdfium shows an empty page for it."""
    with pytest.raises(DocumentError) as caught:
        renderer.page_count(pdf({2: f"<< /Type /Pages {root} >>", **page(10, "ONE")}))
    assert caught.value.code == "document_unreadable"


def test_a_damaged_index_hides_no_page(renderer: DocumentRenderer) -> None:
    """It is all wrong, in the wrong place, or wrong for one page alone."""
    for data in (
        tree(count="/Count 1").replace(b"\n0000000", b"\n0000003"),
        tree(count="/Count 1").replace(b"startxref\n", b"startxref\n9"),
        tree(count="/Count 1").partition(b"xref\n0")[0] + b"trailer << /Root 1 0 R >>",
    ):
        assert words(renderer, data) == THREE
        assert defects(renderer, data) == {"page_count"}
    data = tree()
    place = data.index(b"14 0 obj")
    assert words(renderer, data.replace(b"%010d" % place, b"%010d" % (place + 7))) == THREE


def test_a_tree_without_end_is_an_error_in_no_time(renderer: DocumentRenderer) -> None:
    """Each node names the next one twice: 2^40 of them, with a page at the end or without one."""
    objects = {2: "<< /Type /Pages /Count 2 /Kids [100 0 R 100 0 R] >>"}
    for number in range(100, 140):
        objects[number] = f"<< /Type /Pages /Count 2 /Kids [{number + 1} 0 R {number + 1} 0 R] >>"
    begun_s = time.process_time()
    for last, code in ((page(140, "ONE"), "document_too_long"), ({}, "page_unreadable")):
        data = pdf(objects | last)
        if code == "page_unreadable":
            data = pdf(objects | {140: "<< /Type /Pages /Kids [] >>"})
            code = "document_unreadable"
        with pytest.raises(DocumentError) as caught:
            renderer.page_count(data)
        assert caught.value.code == code
    assert time.process_time() - begun_s < 5


def test_a_deep_tree_has_its_page(renderer: DocumentRenderer) -> None:
    """Deeper than pdfium and Python's stack go."""
    objects = {2: "<< /Type /Pages /Count 1 /Kids [100 0 R] >>", **page(1600, "ONE")}
    for number in range(100, 1600):
        objects[number] = f"<< /Type /Pages /Count 1 /Kids [{number + 1} 0 R] >>"
    assert words(renderer, pdf(objects)) == ["ONE"]


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("10", (100, 50)),
        ("2.5", (25, 13)),
        ("0.5", (5, 3)),
        ("1000000000", (512, 256)),  # clamped
        ("1", (10, 5)),
        ("0", (10, 5)),
        ("-10", (10, 5)),
        ("(10)", (10, 5)),
        ("20 0 R", (40, 20)),
    ],
)
def test_a_user_unit_counts_in_the_size(
    unit: str, size: tuple[int, int], renderer: DocumentRenderer
) -> None:
    """Large drawings are stored in units of more than a point; pdfium does not know of it."""
    pages = page(10, "ONE", box="0 0 20 10", own=f"/UserUnit {unit}")
    data = pdf({2: "<< /Type /Pages /Count 1 /Kids [10 0 R] >>", 20: "4", **pages})
    assert renderer.render(data, 0).size == size


def test_a_user_unit_is_a_pages_own(renderer: DocumentRenderer) -> None:
    """It is not inherited, and does not slip where pages are missing."""
    for kids, pages in (("10 0 R 12 0 R", (0, 1)), ("null 10 0 R null 12 0 R", (1, 3))):
        data = pdf(
            {
                2: f"<< /Type /Pages /Count 2 /Kids [{kids}] /UserUnit 4 >>",
                **page(10, "ONE"),
                **page(12, "TWO", own="/UserUnit 2"),
            }
        )
        assert [renderer.render(data, n).size for n in pages] == [(100, 50), (200, 100)]


@pytest.mark.parametrize(
    ("box", "unit", "is_extreme"),
    [
        ("0 0 234 14295", 1, True),
        ("0 0 14295 234", 1, True),
        ("0 0 23.4 1429.5", 10, True),
        ("0 0 36 14400", 1, True),
        ("0 0 800 12000", 1, True),  # a web page in one piece
        ("0 0 20 1000", 1, True),
        ("0 0 612 0.4", 1, True),
        ("0 0 0.5 0.5", 1, True),
        ("0 0 0.01 0.02", 1, True),
        ("0 0 2 3", 1, True),
        ("0 0 595 842", 1, False),
        ("0 0 2384 3370", 1, False),  # A0
        ("0 0 4768 6741", 1, False),  # 4A0
        ("0 0 226 2000", 1, False),  # a long receipt
        ("0 0 468 60", 1, False),  # a banner
        ("0 0 6.12 7.92", 100, False),
        ("0 0 50 200", 1, False),
    ],
)
def test_a_page_of_extreme_shape_is_degraded(
    box: str, unit: int, is_extreme: bool, renderer: DocumentRenderer
) -> None:
    """Whole, it is a few pixels wide: nobody can read it, and a model would make something up."""
    pages = page(10, "ONE", box=box, own=f"/UserUnit {unit}")
    data = pdf({2: "<< /Type /Pages /Count 1 /Kids [10 0 R] >>", **pages})
    assert defects(renderer, data) == {"page_shape" if is_extreme else None}


EMBEDDED = {
    "_20": "<< /Type /Filespec /F (a.pdf) /UF (a.pdf) /EF << /F 21 0 R >> >>",
    "_21": stream("%PDF-1.4"),
}
NAMES = "/Names << /EmbeddedFiles << /Names [(a.pdf) 20 0 R] >> >>"


@pytest.mark.parametrize("kind", ["<< /View /T >>", "<< /Type /Collection /View /H >>", "22 0 R"])
def test_a_portfolio_is_degraded(kind: str, renderer: DocumentRenderer) -> None:
    """Its page asks for another viewer; what matters lies in the files that it holds."""
    data = tree(root=f"/Collection {kind} {NAMES}", **EMBEDDED, _22="<< /View /D >>")
    assert defects(renderer, data) == {"document_portfolio"}
    defect = renderer.page(data, 0).defect
    assert defect is not None
    assert "cover of 1 embedded file" in defect.message


def test_attachments_alone_are_no_portfolio(renderer: DocumentRenderer) -> None:
    """Invoices have them by law."""
    assert defects(renderer, tree(root=NAMES, **EMBEDDED)) == {None}
    assert defects(renderer, tree(root=f"/Collection null {NAMES}", **EMBEDDED)) == {None}


def form(
    xfa: str, *, fields: str = "[]", root: str = "", word: str = "ONE", kids: int = 1
) -> bytes:
    """A form with XFA: packets 20 and 21 are a configuration that demands it, and forbids it."""
    names = " ".join(f"{number} 0 R" for number in (10, 12, 14)[:kids])
    text = "<config><acrobat7><dynamicRender>\n{}</dynamicRender></acrobat7></config>"
    objects = {
        2: f"<< /Type /Pages /Count {kids} /Kids [{names}] >>",
        20: stream(text.format("required")),
        21: stream(text.format("forbidden"), is_packed=True),
        22: stream("<template/>"),
        23: stream(text.format("required"), is_packed=True),
        24: stream("no zlib").replace("<< ", "<< /Filter /FlateDecode "),
        30: "<< /T (name) /FT /Tx /Kids [] >>",
        **page(10, word),
        **page(12, "TWO"),
        **page(14, "THREE"),
    }
    return pdf(objects, root=f"/AcroForm << /XFA {xfa} /Fields {fields} >> {root}")


@pytest.mark.parametrize(
    "data",
    [
        form("22 0 R", root="/NeedsRendering true"),
        form("22 0 R", root="/NeedsRendering true", fields="[30 0 R]", kids=3),
        form("[(template) 22 0 R (config) 20 0 R]", fields="[30 0 R]", kids=3),
        form("[(config) 23 0 R (template) 22 0 R]", fields="[30 0 R]"),
        form("20 0 R", fields="[30 0 R]"),
        form("22 0 R"),
        form("[(template) 22 0 R]", fields="[30 0 R]", word="Please wait..."),
        form("[(config) 24 0 R]"),
        form("[(config)]"),
    ],
)
def test_a_dynamic_form_is_degraded(data: bytes, renderer: DocumentRenderer) -> None:
    """Its page says "please wait": only a viewer that knows XFA makes the real ones."""
    assert defects(renderer, data) == {"document_xfa"}


@pytest.mark.parametrize(
    "data",
    [
        form("22 0 R", fields="[30 0 R]"),
        form("[(template) 22 0 R]", fields="[30 0 R]", kids=3, root="/NeedsRendering false"),
        form("[(config) 21 0 R (template) 22 0 R]"),
        form("22 0 R", kids=2),
        form("null"),
    ],
)
def test_a_static_form_is_read_as_it_is(data: bytes, renderer: DocumentRenderer) -> None:
    """Its pages are there, whatever stands beside them."""
    assert defects(renderer, data) == {None}


def test_several_defects_are_told_together(renderer: DocumentRenderer) -> None:
    """Under the code of what matters most."""
    defect = renderer.page(tree(count="/Count 1", root=f"/Collection << >> {NAMES}"), 0).defect
    assert defect is not None
    assert defect.code == "document_portfolio"
    assert "3 were found" in defect.message


HUGE = "99999999999999999999999"
UNREADABLE = [
    f"/StructParents {HUGE}",
    f"/UserUnit {HUGE}",
    f"/Rotate {HUGE}",
    f"/X [{HUGE} << /Y -{HUGE} >>]",
    "/X [1 2",
    "/X [[1 (2)",
]


@pytest.mark.parametrize("own", UNREADABLE)
@pytest.mark.parametrize("count", [1, 3, 9])
def test_a_page_that_qpdf_cannot_read_is_no_missing_page(
    own: str, count: int, renderer: DocumentRenderer
) -> None:
    """Pdfium reads what it can of such an object, and shows the page."""
    broken = page(12, "TWO", own=own)[12]
    data = tree(count=f"/Count {count}", _12=broken)
    assert words(renderer, data) == THREE
    assert defects(renderer, data) == {None if count == 3 else "page_count"}


def test_an_object_with_a_wrong_end_is_no_missing_page(renderer: DocumentRenderer) -> None:
    """The same of what surrounds it."""
    data = tree()
    place = data.index(b"14 0 obj")
    end = data.index(b">>\nendobj", place)
    assert words(renderer, data[:end] + b">(" + data[end + 2 :]) == THREE


def test_missing_pages_beside_one_that_qpdf_cannot_read_are_told(
    renderer: DocumentRenderer,
) -> None:
    """Each has its own row."""
    for count in (2, 3, 4, 7):
        objects = {
            2: f"<< /Type /Pages /Count {count} /Kids [10 0 R null 12 0 R 99 0 R] >>",
            **page(10, "ONE"),
            **page(12, "TWO", own=f"/StructParents {HUGE}"),
        }
        expected = ["ONE", "page_unreadable", "TWO", "page_unreadable"]
        assert words(renderer, pdf(objects)) == expected


@pytest.mark.parametrize(
    "first", [f"/Count {HUGE}", f"/Count 2 /X {HUGE}", f"/X [-{HUGE}] /Count 2"]
)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_node_that_qpdf_cannot_read_has_its_pages(
    first: str, count: int, renderer: DocumentRenderer
) -> None:
    """All of them, not one in its place."""
    assert words(renderer, nested(count, first, "/Count 1")) == THREE


def test_pages_that_qpdf_drops_with_a_damaged_index_are_there(renderer: DocumentRenderer) -> None:
    """It then mends the tree in its own way, and nothing in it looks odd."""
    objects = {
        2: "<< /Type /Pages /Count 3 /Kids [20 0 R 22 0 R] >>",
        20: "<< /Type /Pages /Parent 2 0 R /Count 2 /Kids [10 0 R 99] >>",
        22: f"<< /Type /Pages /Parent 2 0 R /Count 1 /Kids [14 0 R] /X {HUGE} >>",
        **page(10, "ONE", parent=20),
        **page(14, "THREE", parent=22),
    }
    data = pdf(objects).replace(b"startxref\n", b"startxref\n9")
    assert words(renderer, data) == ["ONE", "page_unreadable", "THREE"]


def test_a_page_that_is_a_stream_is_shown_as_pdfium_shows_it(renderer: DocumentRenderer) -> None:
    """No qpdf takes it for one, however often the document is read."""
    content = stream("BT ET").replace("<< ", "<< /Type /Page /MediaBox [0 0 80 40] ")
    data = tree("10 0 R 20 0 R", "/Count 2", _20=content)
    assert words(renderer, data) == ["ONE", ""]
    assert renderer.render(data, 1).size == (40, 20)


@pytest.mark.parametrize("first", ["/Count 1", "/Count 2"])
def test_a_root_that_qpdf_cannot_read_hides_no_page(first: str, renderer: DocumentRenderer) -> None:
    """Pdfium alone counts what its nodes say."""
    data = nested(3, first, "/Count 1").replace(b"/Count 3", b"/Count %s" % HUGE.encode())
    assert words(renderer, data) == THREE
    assert defects(renderer, data) == {"page_count" if first == "/Count 1" else None}


def test_a_portfolio_that_qpdf_cannot_walk_is_one(renderer: DocumentRenderer) -> None:
    """Its kind and its count are two questions."""
    data = tree(count=f"/Count {HUGE}", root=f"/Collection << >> {NAMES}", **EMBEDDED)
    assert words(renderer, data) == THREE
    assert defects(renderer, data) == {"document_portfolio"}


@pytest.mark.parametrize("kind", ["/Type /Page", "/Type /Pages", ""])
@pytest.mark.parametrize("count", [1, 2])
def test_a_page_with_an_empty_list_of_kids_is_a_page(
    kind: str, count: int, renderer: DocumentRenderer
) -> None:
    """What has contents has something to show."""
    objects = {2: f"<< /Count {count} /Kids [10 0 R 12 0 R] >>", **page(12, "TWO")}
    data = pdf(objects | page(10, "ONE", kind=kind, own="/Kids []"))
    assert words(renderer, data) == ["ONE", "TWO"]
    assert defects(renderer, data) == {None if count == 2 else "page_count"}


def test_a_very_deep_tree_has_its_page_wherever_it_is_walked(renderer: DocumentRenderer) -> None:
    """Both times as far as ``max_pages`` allows."""
    objects = {2: "<< /Type /Pages /Count 1 /Kids [100 0 R] >>", **page(5400, "ONE")}
    for number in range(100, 5400):
        objects[number] = f"<< /Type /Pages /Count 1 /Kids [{number + 1} 0 R] >>"
    assert words(renderer, pdf(objects)) == ["ONE"]


@pytest.mark.parametrize("count", ["2.5", "-2", "1,000", "1" + "0" * 399 + ".0"])
def test_a_wrong_count_is_shown_as_it_is(count: str, renderer: DocumentRenderer) -> None:
    """Rounded, it might be the number that was found."""
    shown = {"1,000": "1,000", "1" + "0" * 399 + ".0": "1.00000000e+399"}.get(count, count)
    data = tree("10 0 R 12 0 R", f"/Count {count.replace(',', '')}")
    defect = renderer.page(data, 1).defect
    assert defect is not None
    assert f"gives {shown} as the number of its pages, but 2 were found" in defect.message
