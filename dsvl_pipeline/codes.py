"""The statuses of a row, and the stage of every ``error_code``: where to look for the cause."""

from __future__ import annotations

from typing import Literal, get_args

STATUSES = ("ok", "degraded", "error")

Stage = Literal["manifest", "fetch", "image", "document", "prompt", "engine", "answer", "other"]
STAGES: tuple[Stage, ...] = get_args(Stage)

_CODES: dict[Stage, str] = {
    "manifest": "manifest_line no_image no_document no_prompt duplicate_id",
    "fetch": "access_denied address_refused empty http_status not_a_file not_found path_refused "
    "scheme_refused timeout tls_error too_large too_many_redirects unavailable unreachable "
    "url_invalid",
    "image": "image_format image_frames image_samples image_too_large image_too_many_pages "
    "image_truncated image_unreadable image_timeout image_crashed",
    # The last four are defects of pages whose picture is there.
    "document": "document_crashed document_empty document_encrypted document_timeout "
    "document_too_long document_unreadable page_crashed page_timeout page_unreadable "
    "document_portfolio document_xfa page_count page_shape",
    "prompt": "draft_invalid image_count image_invalid image_token_count prompt_crashed "
    "prompt_invalid prompt_malformed prompt_template prompt_timeout prompt_too_long "
    "request_invalid schema_invalid schema_unsupported",
    "engine": "capacity engine_crashed",
    # Defects of an answer that is there.
    "answer": "blank_page length repetition cancelled schema_failed schema_unsatisfied",
}
_STAGE_OF = {code: stage for stage, codes in _CODES.items() for code in codes.split()}
CODES = tuple(_STAGE_OF)


def codes_of(stage: Stage) -> list[str]:
    """Return the codes of a stage."""
    return [code for code in CODES if _STAGE_OF[code] == stage]


def stage_of(code: str) -> Stage:
    """Return the stage of a code; ``other`` for one of a newer version."""
    return _STAGE_OF.get(code, "other")
