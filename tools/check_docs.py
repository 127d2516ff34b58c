"""Check the documents: short sentences, links that lead somewhere, figures that were measured.

Use:  python -m tools.check_docs
``make check`` runs it. It prints each problem with its file, and ends with 1 if there is one.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README_LINES = 120
LONGEST_LINE = 120
MOST_WORDS = 30
MEAN_WORDS = 15

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r'\[([^\]\n]*)\]\(([^)\s]+)(?: "([^"]*)")?\)')
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_MEASURED = re.compile(
    r"\d[\d,.]*\s(?:%|times|(?:images|captions|answers|rows|pages|tokens)/s|ms|MiB|GiB|s)(?!\w)"
)
_RESULTS = "benchmarks/results/"
_FOLDERS = ("docs", "k8s", "benchmarks", "tools")
# And all of docs/, but no logs and decisions, which stay as they were written.
_IN_PLAIN_WORDS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md"),
    *("k8s/README.md", "benchmarks/README.md"),
)


def main() -> int:
    """Print every problem of every document, and return the exit code."""
    found = problems()
    for problem in found:
        print(problem)
    return int(bool(found))


def problems() -> list[str]:
    """Return what is wrong with the documents, each with its file."""
    found = []
    pages = [
        *ROOT.glob("*.md"),
        *(page for name in _FOLDERS for page in (ROOT / name).rglob("*.md")),
    ]
    for page in sorted(pages):
        name, text = str(page.relative_to(ROOT)), page.read_text(encoding="utf-8")
        of_page = [*broken_links(page), *wrong_figures(text)]
        if name in _IN_PLAIN_WORDS or page.parent == ROOT / "docs":
            of_page += long_sentences(text)
        if name == "README.md":
            of_page += [*too_long(text), *unnamed_figures(text)]
        found += [f"{name}: {problem}" for problem in of_page]
    return found


def sentences(text: str) -> list[str]:
    """Return the sentences of a page: of paragraphs, list items and table cells, without code."""
    found = []
    for block in _blocks(_FENCE.sub("\n\n", text)):
        plain = re.sub(r"`[^`]+`", "code", _LINK.sub(r"\1", " ".join(block.split())))
        plain = plain.replace("e.g.", "for example").replace("i.e.", "that is")
        found += re.split(r"(?<=[.!?])[)*\"]*\s+", plain)
    return [one for one in found if num_words(one)]


def num_words(sentence: str) -> int:
    """Return how many words a sentence has; code counts as one."""
    return sum(any(c.isalnum() for c in word) for word in sentence.split())


def long_sentences(text: str) -> Iterator[str]:
    """Return the sentences of a page that have more than `MOST_WORDS` words."""
    for sentence in sentences(text):
        if (count := num_words(sentence)) > MOST_WORDS:
            yield f"a sentence has {count} words, at most {MOST_WORDS}: {sentence[:80]}..."


def too_long(text: str) -> Iterator[str]:
    """Return what makes the README a long read: lines, their width, the mean of its sentences."""
    lines = text.splitlines()
    if len(lines) > README_LINES:
        yield f"{len(lines)} lines, at most {README_LINES}; move something to docs/"
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE and not line.startswith("|"):
            yield f"line {number} has {len(line)} characters, at most {LONGEST_LINE}"
    average = mean(num_words(one) for one in sentences("\n".join(_without_tables(lines))))
    if average > MEAN_WORDS:
        yield f"its sentences have {average:.1f} words on the mean, at most {MEAN_WORDS}"


def broken_links(path: Path) -> Iterator[str]:
    """Return the links of a page to files or headings that do not exist."""
    for _, target, _ in _LINK.findall(_FENCE.sub("", path.read_text(encoding="utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in _anchors(file):
            yield f"the link {target} names no heading of that file"


def wrong_figures(text: str) -> Iterator[str]:
    """Return linked figures that their results file does not hold.

    A figure is a link that begins with a number. Its title is the way to the value in the file:
    ``[35.3 images/s](benchmarks/results/x.json "rows / captions / images_per_s")``.
    """
    for shown, target, title in _LINK.findall(_FENCE.sub("", text)):
        number = _NUMBER.match(shown)
        if number is None or _RESULTS not in target:
            continue
        file = ROOT / _RESULTS / target.partition(_RESULTS)[2]
        if not file.exists():
            continue  # `broken_links` tells
        if file.suffix != ".json":
            values = map(float, re.findall(r"\d+(?:\.\d+)?", file.read_text(encoding="utf-8")))
            if not any(_is_rounded(number[0], value, is_share=False) for value in values):
                yield f"{shown}: {file.name} does not hold {number[0]}"
        elif not title:
            yield f"{shown}: give the way to it in {file.name} as the link's title"
        else:
            value = _value(file, title)
            if not _is_rounded(number[0], value, is_share="%" in shown):
                yield f"{shown}: {file.name} has {value} at {title!r}"


def unnamed_figures(text: str) -> Iterator[str]:
    """Return measured figures that are no links to a results file."""
    outside = _LINK.sub(lambda link: "" if _RESULTS in link[2] else link[1], _FENCE.sub("", text))
    for figure in _MEASURED.findall(outside):
        yield f"{figure}: name its file under {_RESULTS}, as a link"


def _blocks(text: str) -> Iterator[str]:
    """Return the paragraphs, list items and table cells of a page."""
    block: list[str] = []
    for line in (*text.splitlines(), ""):
        starts_anew = re.match(r"\s*(?:[-*]|\d+\.)\s|#|\||\s*$", line)
        if starts_anew and block:
            yield " ".join(block)
            block = []
        if line.startswith("|"):
            yield from line.strip("|").split(" | ")
        elif line.strip() and not line.startswith("#"):
            block.append(re.sub(r"^\s*(?:[-*]|\d+\.)\s", "", line))


def _without_tables(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("|")]


@cache
def _anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8")) if path.suffix == ".md" else ""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def _value(file: Path, way: str) -> Any:
    value = json.loads(file.read_text(encoding="utf-8"))["figures"]
    for part in way.split(" / "):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value


def _is_rounded(shown: str, value: Any, *, is_share: bool) -> bool:
    """Return whether a number is a value, rounded; a share may be in percent."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    number = float(shown.replace(",", ""))
    step = 10.0 ** -len(shown.partition(".")[2])
    return any(abs(v - number) <= 0.5001 * step for v in (value, *[100 * value] * is_share))


if __name__ == "__main__":
    sys.exit(main())
