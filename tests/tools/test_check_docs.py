"""What `make check` says about the documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_docs

RESULTS = "benchmarks/results/2026-11-22-h200-engine-bf16-0b36900.json"
LOG = "benchmarks/results/2026-11-22-h200-gpu-tests-aa580d4.txt"
WAY = "rows / bf16 captions / images_per_s"


def test_the_documents_are_in_order() -> None:
    """Each problem is printed, with its file."""
    assert check_docs.problems() == []


def test_sentences_are_those_of_prose_lists_and_cells() -> None:
    """Code is one word, a link is its text, and headings are no sentences."""
    page = """\
# A heading of words

Two words. Now `dsvl run job.yaml --limit 5` and
[a link](x.md "title") end here!
```
no sentence at all
```
- First item
- second, e.g. this

| one cell | another. And more |
|---|---|
"""
    assert check_docs.sentences(page) == [
        "Two words.",
        "Now code and a link end here!",
        "First item",
        "second, for example this",
        "one cell",
        "another.",
        "And more",
    ]


def test_a_long_sentence_is_found() -> None:
    """Thirty words are the most."""
    assert list(check_docs.long_sentences("word " * 30 + ".")) == []
    (problem,) = check_docs.long_sentences("word " * 31 + ".")
    assert problem.startswith("a sentence has 31 words, at most 30: word word ")


def test_a_long_readme_is_found() -> None:
    """By its lines, their width, and the mean of its sentences; tables may be wide."""
    short = "Five words in a sentence.\n"
    assert list(check_docs.too_long(short * 100 + "| " + "x" * 200 + " |\n")) == []
    assert list(check_docs.too_long(short * 121)) == [
        "121 lines, at most 120; move something to docs/"
    ]
    assert list(check_docs.too_long(short + "x" * 121)) == [
        "line 2 has 121 characters, at most 120"
    ]
    assert list(check_docs.too_long("word " * 16 + ".\n")) == [
        "its sentences have 16.0 words on the mean, at most 15"
    ]


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("other.md", ""),
        ("other.md#a-heading-with-code", ""),
        ("#here", ""),
        ("https://example.com/x", ""),
        ("missing.md", "the link missing.md leads nowhere"),
        ("other.md#nothing", "the link other.md#nothing names no heading of that file"),
        ("#nothing", "the link #nothing names no heading of that file"),
    ],
)
def test_links_lead_somewhere(tmp_path: Path, target: str, problem: str) -> None:
    """To files, and to headings as GitHub calls them."""
    (tmp_path / "other.md").write_text("## A heading, with `code`!\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(f"# Here\n\nSee [this]({target}).\n", encoding="utf-8")
    assert list(check_docs.broken_links(page)) == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("link", "end"),
    [
        (f'[35.3 images/s]({RESULTS} "{WAY}")', None),
        (f'[35 images/s](../{RESULTS} "{WAY}")', None),
        (f'[84 %]({RESULTS} "rows / bf16 captions / roofline_share")', None),
        (f'[1,024 rows]({RESULTS} "rows / bf16 captions / requests")', None),
        (f"[0.020 %]({LOG})", None),
        (f"[the results]({RESULTS})", None),
        (f'[35.4 images/s]({RESULTS} "{WAY}")', f"has 35.28763781550636 at {WAY!r}"),
        (f'[35.3 images/s]({RESULTS} "rows / elsewhere")', "has None at 'rows / elsewhere'"),
        (f"[35.3 images/s]({RESULTS})", "as the link's title"),
        (f"[0.7531 %]({LOG})", "does not hold 0.7531"),
    ],
)
def test_linked_figures_are_those_of_their_file(link: str, end: str | None) -> None:
    """Rounded to the digits that are shown; shares also in percent."""
    found = list(check_docs.wrong_figures(f"It makes {link} here."))
    assert [problem.endswith(end) for problem in found] == [True] if end else found == []


def test_a_measured_figure_must_name_its_file() -> None:
    """Settings and sizes need none."""
    text = f"It made 35 images/s, 5 % and [3 s]({RESULTS} 'x'), of 500 rows with 4 GPUs in 2026."
    assert [problem.partition(":")[0] for problem in check_docs.unnamed_figures(text)] == [
        "35 images/s",
        "5 %",
        "3 s",
    ]
    text = f'It made [35.3 images/s]({RESULTS} "{WAY}") of 500 rows.'
    assert list(check_docs.unnamed_figures(text)) == []
