"""Which objects of a store the rows of a manifest may name."""

from __future__ import annotations

import posixpath

from dsvl_pipeline.job.inputs import InputConfig
from dsvl_pipeline.store.named import prefix_of
from dsvl_pipeline.store.uris import (
    EVERY_OBJECT,
    bucket_and_key,
    bucket_of,
    is_below,
    is_object,
    scheme_of,
    shown,
)


class Prefixes:
    """``input.allowed_prefixes``, and what the job file's own images and documents list.

    Without that setting rows may name what lies in the buckets of their manifests.

    Args:
        config: Of the job, as `open.Input` has it: what is a name there is no pattern here.
    """

    def __init__(self, config: InputConfig) -> None:
        listed = [prefix_of(uri) for uri in (*config.images, *config.documents) if is_object(uri)]
        allowed = config.allowed_prefixes
        if allowed is None:
            allowed = tuple(bucket_of(uri) for uri in config.manifest if is_object(uri))
        self._prefixes = sorted({*allowed, *listed})

    def refuse(self, uri: str) -> bool:
        """Return whether this is an object outside all prefixes; anything else is not its matter.

        A key is taken as it stands and, lest anything on the way to the store does that, with
        ``..`` and ``//`` resolved: both must lie below one prefix.
        """
        # A store refuses a URI without a bucket, and says what is wrong with it.
        if scheme_of(uri) != "s3" or not bucket_and_key(uri)[0]:
            return False
        return not any(
            is_below(uri, prefix) and is_below(_normal(uri), _normal(prefix))
            for prefix in self._prefixes
        )

    def refusal(self, uri: str) -> str:
        """Explain why `refuse` does, and what to change."""
        return (
            f"{shown(uri)} lies outside what this job's rows may name in stores "
            f"({shown(', '.join(self._prefixes)) or 'nothing'}); if it may be read, list its "
            f"bucket or prefix in input.allowed_prefixes, e.g. {shown(bucket_of(uri))}"
        )


def _normal(uri: str) -> str:
    """Resolve ``..`` and ``//``, in which the bucket may get lost."""
    bucket, key = bucket_and_key(uri)
    return EVERY_OBJECT + posixpath.normpath(f"{bucket}/{key}") if bucket else uri
