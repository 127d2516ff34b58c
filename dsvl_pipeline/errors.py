"""Every exception this project raises on purpose, as one tree.

Two families matter to callers. A `RowError` is bad data: it becomes an output row with
``error_code`` and never stops a run. Everything else is ours, the user's or the infrastructure's
and stops what was being done, with an exit code (`exit_code`) that scripts can use.

Messages say what was being done, the value found, the value needed and what to change, in that
order.
"""

from __future__ import annotations

from typing import ClassVar


class DsvlError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 3


class ConfigError(DsvlError):
    """A job file, a setting or an input location is wrong; nothing was started."""

    exit_code: ClassVar[int] = 2


class CheckpointError(ConfigError, ValueError):
    """A checkpoint cannot be loaded: files, config or tensors do not fit."""


class UnreadableCheckpointError(CheckpointError, OSError):
    """A checkpoint's files cannot be had or read. An OSError as well, as in transformers."""


class StorageError(DsvlError):
    """An object store or file system did not do what was asked, after all retries."""


class AccessError(StorageError, ConfigError):
    """The store answered clearly: no permission, no such bucket, wrong credentials."""

    exit_code: ClassVar[int] = 2


class NotFoundError(StorageError):
    """There is no such object, file or directory."""


class TooLargeError(StorageError):
    """An object holds more bytes than the caller is ready to read.

    Attributes:
        size: How many bytes it holds.
    """

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message, size)
        self.size = size

    def __str__(self) -> str:
        return str(self.args[0])


class TableError(DsvlError):
    """The output table is inconsistent, or of a layout this version does not know."""


class PartError(TableError):
    """A part of the table is missing or damaged.

    Attributes:
        found: What is wrong, without the part's name and advice, which ``str`` has.
    """

    def __init__(self, message: str, found: str) -> None:
        super().__init__(message, found)
        self.found = found

    def __str__(self) -> str:
        return str(self.args[0])


class LeaseError(TableError):
    """Another driver holds the table, or took it over."""


class CapacityError(DsvlError):
    """A sequence would not fit into the engine's memory even if it were alone."""


class EngineError(DsvlError):
    """The engine broke; its process must be replaced."""


class RunStoppedError(DsvlError):
    """A run stopped itself or was stopped; what was committed is safe."""


class RowError(DsvlError):
    """One row cannot be answered. Becomes an output row; the run goes on.

    Attributes:
        code: Short stable name for reports and ``dsvl redrive``, e.g. ``image_truncated``.
        is_retryable: Whether the same input may succeed later (a store that timed out).
    """

    def __init__(self, code: str, message: str, *, is_retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.is_retryable = is_retryable

    # Exceptions with extra arguments do not survive pickling by default; Ray pickles them.
    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.code, str(self), self.is_retryable))


class ManifestError(RowError):
    """A manifest line that cannot be read, or that says something impossible."""


class FetchError(RowError):
    """The bytes a row names could not be had, or may not be fetched."""


class ImageError(RowError, ValueError):
    """The bytes are not a picture that can be decoded safely, or the picture cannot be had."""


class DocumentError(RowError):
    """A document that cannot be opened, or a page that cannot be rendered."""


class PromptError(RowError, ValueError):
    """Prompt and images do not fit together, or the prompt is too long for the model."""


class GrammarError(RowError):
    """A JSON schema or a regular expression that cannot be enforced."""


def _rebuild(kind: type[RowError], code: str, message: str, is_retryable: bool) -> RowError:
    return kind(code, message, is_retryable=is_retryable)
