"""Pictures for a report: what a run has read, read again as that run was allowed to."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from dsvl_pipeline.errors import ConfigError, DsvlError, RowError
from dsvl_pipeline.job.inputs import DocumentConfig, FromEnvironment, InputConfig
from dsvl_pipeline.processor import decode, tiff
from dsvl_pipeline.sources.documents import DocumentRenderer
from dsvl_pipeline.sources.fetch import Fetcher
from dsvl_pipeline.sources.images import may_have_pages
from dsvl_pipeline.store.uris import scheme_of
from dsvl_pipeline.table.lineage import read_run

_DPI = 72
_MOST_RUNS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One picture of a row, as its table names it.

    Attributes:
        uri: Where it was read.
        sha256: Of the bytes that were read; None where none were.
        page_index: Of a document's or a TIFF's page.
        run_id: Who read it.
    """

    uri: str
    sha256: str | None
    page_index: int | None
    run_id: str | None


class RunPictures:
    """Reads a table's local pictures again, each within the limits of the run that answered it.

    Names in a table are strangers'. Roots, sizes and the time a page may take are those of the
    run's manifest; a picture that its run did not read, or that is another one by now, is not
    shown.

    Args:
        table_uri: Where the runs' manifests lie.
    """

    def __init__(self, table_uri: str) -> None:
        self._table_uri = table_uri
        self._readers: dict[str, _Reader | str] = {}
        self._config = DocumentConfig(dpi=_DPI)
        self._renderer = DocumentRenderer(self._config)

    def read(self, source: Source) -> Image.Image | str:
        """Return a picture, or say in a few words why there is none."""
        if source.sha256 is None:
            return "the run read none"
        if scheme_of(source.uri) != "file":
            return "only local files are read again"
        reader = self._reader(source.run_id)
        if isinstance(reader, str):
            return reader
        is_image = source.page_index is None or may_have_pages(source.uri)
        read = reader.fetcher.read if is_image else reader.fetcher.read_document
        try:
            fetched = read(source.uri)
            if fetched.sha256 != source.sha256:
                return "the file has changed since"
            if source.page_index is None or tiff.is_tiff(fetched.data):
                return decode.decode_frame(fetched.data, source.page_index or 0).image
            return self._rendering(reader.document).render(fetched.data, source.page_index)
        except RowError as error:
            is_locked = error.code == "document_encrypted"
            return reader.when_locked if is_locked else error.code

    def close(self) -> None:
        """End the rendering process."""
        self._renderer.close()

    def _reader(self, run_id: str | None) -> _Reader | str:
        """Return a run's reader, or say why it has none."""
        name = run_id or ""
        if name not in self._readers:
            if len(self._readers) >= _MOST_RUNS:  # rows of one run mostly stand together
                self._readers.pop(next(iter(self._readers)))
            self._readers[name] = _reader_of(self._table_uri, name)
        return self._readers[name]

    def _rendering(self, config: DocumentConfig) -> DocumentRenderer:
        if config != self._config:
            self._renderer.close()
            self._renderer, self._config = DocumentRenderer(config), config
        return self._renderer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """What a run may read, and how its pages are rendered now.

    Attributes:
        fetcher: With the run's limits.
        document: With the run's limits, and its password where that can be had.
        when_locked: Said of a document that does not open.
    """

    fetcher: Fetcher
    document: DocumentConfig
    when_locked: str


def _reader_of(table_uri: str, run_id: str) -> _Reader | str:
    try:
        run = read_run(table_uri, run_id) if run_id else None
    except (DsvlError, ValueError, TypeError, KeyError):
        return "the manifest of its run cannot be read"
    if run is None:
        return "its run left no manifest that says what may be read"
    try:
        config = InputConfig.model_validate(run.job.get("input"))
    except ValueError:
        return "the manifest of its run says nothing that is understood of what may be read"
    password, when_locked = config.document.password, "it needs a password, and its run had none"
    if isinstance(password, FromEnvironment):
        when_locked = f"it needs the password of its run; set {password.env} here as it was there"
        try:
            _ = config.document.password_text
        except ConfigError:
            password = None
    elif password is not None:  # hidden in the manifest
        password = None
        when_locked = (
            "it needs the password of its run, which is kept nowhere; a job that names it as "
            "{env: NAME} lets a report read it from there"
        )
    # Drafts are not wanted.
    update = {"dpi": _DPI, "draft": False, "password": password}
    document = config.document.model_copy(update=update)
    return _Reader(fetcher=Fetcher(config), document=document, when_locked=when_locked)
