"""What engines leave behind when their process goes."""

from __future__ import annotations

from dsvl_pipeline.cluster.ledger import Ledger, total


def test_engines_add_up_and_gauges_do_not() -> None:
    """Counters are sums, occupancy is a mean over steps, KV use is the worst there was."""
    one = {"new_tokens": 10.0, "decode_steps": 4.0, "occupancy": 0.5, "kv_use": 0.2, "up_s": 3.0}
    other = {"new_tokens": 5.0, "decode_steps": 12.0, "occupancy": 0.9, "kv_use": 0.6, "up_s": 4.0}
    gauges = {"sequences_running": 7.0, "kv_pages_used": 3.0}
    assert total([one | gauges, other, {}]) == {
        "engines": 3.0,
        "new_tokens": 15.0,
        "decode_steps": 16.0,
        "up_s": 7.0,
        "occupancy": 0.8,
        "kv_use": 0.6,
    }


def test_a_dead_engine_counts_once_and_its_successor_from_nothing() -> None:
    """Statistics are totals since an engine's start: the last word of each is what counts."""
    ledger = Ledger()
    for tokens in (5.0, 9.0):
        ledger.begin("dead", b"a")
        ledger.end("dead", b"a", {"new_tokens": tokens})
    ledger.begin("next", b"b")
    ledger.end("next", b"b", {"new_tokens": 2.0})
    assert ledger.report()[0] == {"engines": 2.0, "new_tokens": 11.0}


def test_what_was_begun_and_never_ended_is_an_attempt() -> None:
    """What ended, or had to wait, is none."""
    ledger = Ledger()
    assert [ledger.begin("a", b"w"), ledger.begin("b", b"w")] == [0, 1]
    ledger.defer(b"w")
    assert ledger.begin("b", b"w") == 1
    ledger.end("b", b"w", {})
    assert ledger.begin("b", b"w") == 0


def test_engines_that_come_and_answer_nothing_are_counted() -> None:
    """Nothing is answered where every process dies."""
    ledger = Ledger()
    for name in "abc":
        ledger.begin(name, b"w")
    assert ledger.report()[1] == 3
    ledger.end("c", b"w", {})
    assert ledger.report()[1] == 0
