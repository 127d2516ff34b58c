"""What a check of the doctor has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What, in one or two words.
        grade: ``problem`` keeps the job from running; ``warning`` makes it slow or surprising.
        text: What was found.
        advice: What to do; empty where nothing is wrong.
    """

    about: str
    grade: Grade
    text: str
    advice: str = ""
