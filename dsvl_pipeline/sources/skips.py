"""What a job's directories and globs hold beside its rows: counted by reason, with examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dsvl_pipeline.store.uris import shown

MOST_REASONS = 20
MOST_EXAMPLES = 3
_OTHERS = "other reasons"


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """Files that became no rows, for one reason.

    Attributes:
        setting: What lists them: ``input.images``, ``input.documents`` or ``input.manifest``.
        reason: For people.
        count: How many; a directory that cannot be listed counts once.
        examples: Some of their names, without secrets.
    """

    setting: str
    reason: str
    count: int
    examples: tuple[str, ...]


class Skips:
    """Counts what is passed over, in bounded memory whatever the names are.

    Args:
        is_for_another: Tells, by setting and URI, what another setting of the job reads if it can
            be read: it is not passed over.
        watched: Tells by its URI which file is asked about.

    Attributes:
        seen: Setting, reason and URI of some of those that are watched.
    """

    def __init__(
        self,
        is_for_another: Callable[[str, str], bool] = lambda _setting, _uri: False,
        watched: Callable[[str], bool] = lambda _uri: False,
    ) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self._is_for_another, self._watched = is_for_another, watched
        self._found: dict[tuple[str, str], tuple[int, list[str]]] = {}

    def add(self, setting: str, reason: str, uri: str, *, is_readable: bool = False) -> None:
        """Count one file.

        Args:
            setting: What lists it.
            reason: Why it is passed over.
            uri: The file.
            is_readable: Whether another setting can read it: it is there, and no pipe or the like.
        """
        if is_readable and self._is_for_another(setting, uri):
            return
        if len(self.seen) < MOST_EXAMPLES and self._watched(uri):
            self.seen.append((setting, reason, shown(uri)))
        key = (setting, reason)
        if key not in self._found and len(self._found) >= MOST_REASONS:
            key = (setting, _OTHERS)
        count, examples = self._found.get(key, (0, []))
        if len(examples) < MOST_EXAMPLES:
            examples.append(shown(uri))
        self._found[key] = (count + 1, examples)

    def report(self) -> tuple[Skipped, ...]:
        """Return all that was counted, by setting, the most frequent reason first."""
        found = [
            Skipped(setting=setting, reason=reason, count=count, examples=tuple(examples))
            for (setting, reason), (count, examples) in self._found.items()
        ]
        return tuple(sorted(found, key=lambda skipped: (skipped.setting, -skipped.count)))


def describe(skipped: Iterable[Skipped]) -> str:
    """Put counts into one line, for a message."""
    return "; ".join(
        f"{one.count:,} skipped: {one.reason}, e.g. {one.examples[0]}" for one in skipped
    )
