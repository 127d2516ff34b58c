"""Answer a list of requests in its order, whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence

from dsvl_pipeline.records import Completion, Engine, Request

# Bounds how long a dead engine goes unnoticed, not how long a request may take.
_POLL_S = 1.0


def generate_all(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Submit all requests, wait, and return the completions in the order of the requests.

    Takes every completion that the engine hands out meanwhile, those of requests submitted
    elsewhere included: use it for an engine of your own.

    Raises:
        EngineError: The engine's thread died.
        ValueError: Two requests share an id.
    """
    missing = {request.request_id for request in requests}
    if len(missing) < len(requests):  # before the first of them is in the engine
        ids = [request.request_id for request in requests]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"two requests have the id {twice!r}; give each one of its own")
    for request in requests:
        engine.submit(request)
    done: dict[str, Completion] = {}
    while missing:
        for completion in engine.poll(_POLL_S):
            done[completion.request_id] = completion
            missing.discard(completion.request_id)
    return [done[request.request_id] for request in requests]
