"""Lines of text to read: words, sentences, lists, prices, dates and plain noise.

About half of what is written cannot be guessed from its context, so that a model has to look.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from random import Random

_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_SYMBOLS = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_MONTHS = (
    "Jan",
    "Feb",
    "March",
    "April",
    "May",
    "June",
    "July",
    "Aug",
    "Sept",
    "Oct",
    "Nov",
    "Dec",
)
_PRINTABLE = string.ascii_letters + string.digits + _SYMBOLS


def lines(random: Random, words: Sequence[str], *, count: int, max_chars: int) -> list[str]:
    """Write lines of one kind: prose, a list, a table or noise.

    Args:
        random: Source of every choice.
        words: What prose is made of.
        count: How many.
        max_chars: Longest line.

    Returns:
        ``count`` lines of 1 to ``max_chars`` characters of printable ASCII, without spaces at
        either end or two in a row.
    """
    kind = random.random()
    if kind < 0.4:
        return _prose(random, words, count, max_chars)
    if kind < 0.6:
        return [_entry(random, words, index, max_chars) for index in range(count)]
    return [_mixture(random, words, max_chars) for _ in range(count)]


def _prose(random: Random, words: Sequence[str], count: int, max_chars: int) -> list[str]:
    """Sentences, broken where a line is full; a line may end earlier, as at a paragraph's end."""
    written: list[str] = []
    is_start = True
    for _ in range(count):
        line = ""
        limit = max_chars if random.random() < 0.8 else random.randint(1, max_chars)
        while True:
            word = random.choice(words) if random.random() < 0.75 else _token(random)
            if is_start:
                word = word[:1].upper() + word[1:]
            ending = random.choices(("", ",", ".", ";", "?", "!", ":"), (78, 8, 9, 1, 2, 1, 1))[0]
            if len(line) + bool(line) + len(word) + len(ending) > limit:
                break
            line += (" " if line else "") + word + ending
            is_start = ending in (".", "?", "!")
        written.append(line or word[:limit])
    return written


def _entry(random: Random, words: Sequence[str], index: int, max_chars: int) -> str:
    """A line of a list, a bill or a form."""
    name = " ".join(random.choice(words) for _ in range(random.randint(1, 3)))
    if random.random() < 0.4:
        name = name.capitalize()
    kind = random.random()
    if kind < 0.35:
        line = f"{name} {_number(random)}"
    elif kind < 0.55:
        line = f"{random.randint(1, 99)} {name} {random.randint(0, 999)}.{random.randint(0, 99):02}"
    elif kind < 0.7:
        line = (
            f"{random.choice(('-', '*', f'{index + 1}.', f'{index + 1})', str(index + 1)))} {name}"
        )
    elif kind < 0.85:
        line = f"{name}: {_token(random)}"
    else:
        line = f"{_date(random)} {name}"
    return _cut(line, max_chars)


def _mixture(random: Random, words: Sequence[str], max_chars: int) -> str:
    """A line of words and tokens of any kind, of any length."""
    length = random.randint(1, max_chars)
    line = ""
    while len(line) < length:
        part = random.choice(words) if random.random() < 0.25 else _token(random)
        line += (" " if line else "") + part
    return _cut(line, length)


def _token(random: Random) -> str:
    """Something without a space that no dictionary holds."""
    kind = random.random()
    if kind < 0.4:
        letters = _LETTERS if random.random() < 0.6 else string.ascii_lowercase
        word = "".join(random.choices(letters, k=random.randint(1, 9)))
        return word.capitalize() if random.random() < 0.3 else word
    if kind < 0.55:
        return "".join(random.choices(string.ascii_uppercase, k=random.randint(1, 7)))
    if kind < 0.8:
        return _number(random)
    if kind < 0.84:
        return _date(random)
    if kind < 0.88:
        mark = random.choice(('""', "''", "()", "[]", "<>", "{}"))
        return mark[0] + "".join(random.choices(_LETTERS, k=random.randint(1, 6))) + mark[1]
    return "".join(random.choices(_PRINTABLE, k=random.randint(1, 7)))


def _number(random: Random) -> str:
    digits = "".join(random.choices(string.digits, k=random.randint(1, 6)))
    match random.randrange(7):
        case 0:
            return f"{random.randint(0, 9999)}.{random.randint(0, 99):02}"
        case 1:
            return f"{random.choice('$+-#')}{digits}"
        case 2:
            return f"{digits}%"
        case 3:
            return f"{random.randint(0, 23)}:{random.randint(0, 59):02}"
        case 4:
            return f"{random.randint(1, 999)},{random.randint(0, 999):03}"
        case 5:
            return f"{random.choice(string.ascii_uppercase)}{digits[:3]}"
    return digits


def _date(random: Random) -> str:
    day, month, year = random.randint(1, 31), random.randint(1, 12), random.randint(1900, 2099)
    match random.randrange(4):
        case 0:
            return f"{year}-{month:02}-{day:02}"
        case 1:
            return f"{day}.{month}.{year}"
        case 2:
            return f"{day}/{month}/{year % 100:02}"
    return f"{day} {_MONTHS[month - 1]}"


def _cut(line: str, max_chars: int) -> str:
    return line[:max_chars].rstrip()
