"""Which objects of a store the rows of a manifest may name."""

from __future__ import annotations

import posixpath

from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.sources.listing import prefix_of
from dsvl_pipeline.store.uris import scheme_of, shown


class Prefixes:
    """``input.allowed_prefixes``, and what the job file's own images and documents list.

    Without that setting rows may name what lies in the buckets of their manifests.

    Args:
        config: Of the job, as `open.Input` has it: what is a name there is no pattern here.
    """

    def __init__(self, config: InputConfig) -> None:
        listed = [prefix_of(uri) for uri in (*config.images, *config.documents) if _is_object(uri)]
        allowed = config.allowed_prefixes
        if allowed is None:
            allowed = tuple(f"s3://{_bucket(uri)}" for uri in config.manifest if _is_object(uri))
        self._prefixes = sorted({*allowed, *listed})

    def refuse(self, uri: str) -> bool:
        """Tell whether this is an object outside all prefixes; anything else is not its matter.

        A key is taken as it stands and, lest anything on the way to the store does that, with
        ``..`` and ``//`` resolved: both must lie below one prefix.
        """
        # A store refuses a URI without a bucket, and says what is wrong with it.
        if not _is_object(uri) or not _bucket(uri):
            return False
        return not any(
            _is_below(_rest(uri), _rest(prefix))
            and _is_below(_resolved(_rest(uri)), _resolved(_rest(prefix)))
            for prefix in self._prefixes
        )

    def refusal(self, uri: str) -> str:
        """Say why `refuse` does, and what to change."""
        return (
            f"{shown(uri)} lies outside what this job's rows may name in stores "
            f"({shown(', '.join(self._prefixes)) or 'nothing'}); if it may be read, list its "
            f"bucket or prefix in input.allowed_prefixes, e.g. {shown(f's3://{_bucket(uri)}')}"
        )


def _is_object(uri: str) -> bool:
    return scheme_of(uri) == "s3"


def _rest(uri: str) -> str:
    return uri.partition("://")[2]


def _bucket(uri: str) -> str:
    return _rest(uri).partition("/")[0]


def _resolved(key: str) -> str:
    return posixpath.normpath(key) if key else ""


def _is_below(key: str, prefix: str) -> bool:
    # In a store "p//a" lies below "p//" and below "p/", "p/a" below the latter alone.
    return not prefix or key == prefix or key.startswith(prefix.removesuffix("/") + "/")
