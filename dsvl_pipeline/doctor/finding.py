"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        about: What was checked, in one or two words.
        grade: ``problem`` keeps the job from running; ``warning`` makes it slow or surprising.
        text: What was found.
        advice: What to do; empty where nothing is wrong.
    """

    about: str
    grade: Grade
    text: str
    advice: str = ""
