"""How far answers are from what they should be."""

from __future__ import annotations


def edit_distance(found: str, wanted: str) -> int:
    """Least number of characters to insert, delete or replace (Levenshtein)."""
    previous = list(range(len(wanted) + 1))
    for row, character in enumerate(found, start=1):
        current = [row]
        for column, other in enumerate(wanted, start=1):
            replaced = previous[column - 1] + (character != other)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1]


def character_errors(found: list[str], wanted: list[str]) -> tuple[int, int]:
    """Edits over all texts, and the characters of the wanted ones."""
    edits = sum(map(edit_distance, found, wanted))
    return edits, sum(map(len, wanted))
