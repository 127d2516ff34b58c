"""Keep a completion within a JSON schema or a regular expression, token by token. Torch-free.

Letters: ``V`` ids of the model's vocabulary.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsvl_pipeline.errors import CheckpointError, GrammarError
from dsvl_pipeline.job.grammar import grammar_of, load_llguidance, refused

_MAX_COMPILED = 256
# Completions of one compilation share the states of its lexer, which only grow, up to a limit at
# which all of them fail. A fresh compilation costs less than a step and starts with none.
_USES_PER_COMPILATION = 256
_MAX_LEXER_STATES = 100_000  # one or two kilobytes each


@dataclass(slots=True)
class _Compiled:
    """A grammar at its start, or why there is none, and how many completions started with it."""

    state: Any = None
    error: GrammarError | None = None
    num_uses: int = 0


class Grammars:
    """A checkpoint's tokenizer as llguidance needs it, and the grammars compiled for it.

    Nothing is loaded before the first grammar is asked for; that takes about a second with a
    vocabulary of 100,000, and a grammar takes milliseconds at most. Thread-safe: whoever submits
    a request can compile its grammar, so that the engine finds it done.

    Args:
        directory: Holds ``tokenizer.json``.
        vocab_size: The model's; ids beyond the tokenizer's are never allowed.
        eos_token_ids: End a completion, and are allowed only where the grammar is complete.
        control_ids: Further ids that are never allowed, besides what ``tokenizer.json`` calls
            special: the image placeholder, where the tokenizer does not know it as such.
    """

    def __init__(
        self,
        directory: Path,
        *,
        vocab_size: int,
        eos_token_ids: Collection[int],
        control_ids: Collection[int] = (),
    ) -> None:
        self._path = directory / "tokenizer.json"
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._control_ids = frozenset(control_ids)
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._text_mask: NDArray[np.int32] | None = None
        self._compiled: OrderedDict[tuple[str | None, str | None], _Compiled] = OrderedDict()

    def matcher(self, schema: str | None, regex: str | None) -> Matcher:
        """Start a completion that must satisfy a grammar; exactly one of the two is given.

        Args:
            schema: JSON schema as text.
            regex: Regular expression that the whole text must match.

        Raises:
            GrammarError: Code ``schema_invalid``, or ``schema_unsupported`` where llguidance is
                missing.
            CheckpointError: The tokenizer is missing, or of a kind that llguidance cannot read.
        """
        with self._lock:
            compiled = self._compiled.pop((schema, regex), None)
            if compiled is None or compiled.num_uses >= _USES_PER_COMPILATION:
                compiled = self._compile(schema, regex)
            compiled.num_uses += 1
            self._compiled[schema, regex] = compiled  # the last to be used stands last
            if len(self._compiled) > _MAX_COMPILED:
                self._compiled.popitem(last=False)
            if compiled.error is not None:
                raise GrammarError(compiled.error.code, str(compiled.error))
            assert self._text_mask is not None
            return Matcher(compiled.state.deep_copy(), self._text_mask, self._eos_token_ids)

    def _compile(self, schema: str | None, regex: str | None) -> _Compiled:
        llguidance = load_llguidance()
        if self._tokenizer is None:
            self._load_tokenizer(llguidance)
        try:
            grammar = grammar_of(schema, regex)
        except GrammarError as error:
            return _Compiled(error=error)
        limits = llguidance.LLParserLimits(verbose_errors=False, max_lexer_states=_MAX_LEXER_STATES)
        state = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if state.is_error():
            return _Compiled(error=refused(state.get_error(), is_regex=regex is not None))
        return _Compiled(state=state)

    def _load_tokenizer(self, llguidance: Any) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
            tokenizer = llguidance.LLTokenizer(
                text, n_vocab=self._vocab_size, eos_token=self._eos_token_ids
            )
            added = json.loads(text).get("added_tokens") or []
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self._path} cannot be used for structured output: {error}; leave the schema "
                "out, or save the tokenizer with a fast tokenizer class of transformers"
            ) from error
        # As the processor has it: single letters that were added are vocabulary, names are not.
        control = {t["id"] for t in added if t["special"] or len(t["content"]) > 1}
        control = (control | self._control_ids) - set(self._eos_token_ids)
        is_text = np.ones(-(-self._vocab_size // 32) * 32, dtype=np.bool_)
        is_text[[token_id for token_id in control if token_id < self._vocab_size]] = False
        is_text[self._vocab_size :] = False
        self._text_mask = np.packbits(is_text, bitorder="little").view(np.int32)
        self._tokenizer = tokenizer


class Matcher:
    """One completion's state within its grammar. Not thread-safe.

    Args:
        state: An ``LLMatcher`` of its own.
        text_mask: ``int32[ceil(V / 32)]``: bit t % 32 of word t // 32 is 0 for control tokens.
        eos_token_ids: See `Grammars`.
    """

    def __init__(
        self, state: Any, text_mask: NDArray[np.int32], eos_token_ids: Collection[int]
    ) -> None:
        self._state = state
        self._text_mask = text_mask
        self._eos_token_ids = frozenset(eos_token_ids)

    def fill(self, row: NDArray[np.int32]) -> None:
        """Write which tokens may come next; at least one may.

        Args:
            row: ``int32[ceil(V / 32)]``, contiguous; bit t % 32 of word t // 32 is set where token
                t may be chosen.
        """
        assert row.shape == self._text_mask.shape
        assert row.dtype == np.int32
        assert row.flags.c_contiguous
        # In an error, too, llguidance allows the end of sequence.
        self._state.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        row &= self._text_mask
        if not row.any():  # only a control token could have gone on
            for token_id in self._eos_token_ids:
                row[token_id // 32] |= np.array(1 << token_id % 32, np.uint32).view(np.int32)

    def accept(self, token_id: int) -> None:
        """Go on with a token that was chosen; one that `fill` did not allow ends in an `error`."""
        if not self._state.is_stopped():
            self._state.consume_token(token_id)

    @property
    def is_finished(self) -> bool:
        """Whether nothing but the end of sequence may follow; the engine need not wait for it."""
        return bool(self._state.is_stopped())

    @property
    def error(self) -> str | None:
        """Why the grammar could not be followed to its end (it grew too complex, for one)."""
        return self._state.get_error() or None if self._state.is_error() else None
