"""What ``generate`` takes by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from torch import Tensor


class GenerateArguments(TypedDict, total=False):
    """Inputs of ``forward``, and settings that win over those of a `GenerationConfig`.

    What is not given, or None, comes from the config, else from transformers' defaults: greedy, 20
    new tokens, and top-k 50 when sampling.

    Attributes:
        input_ids: ``int64[B, T]``, padded on the left.
        attention_mask: ``[B, T]``, 0 at padding. Without one, padding is what has the pad id,
            unless that is an end of sequence as well.
        position_ids: ``int64[B, T]``; by default counted without padding.
        inputs_embeds: ``[B, T, D]`` instead of ids.
        past_key_values: A cache of the first tokens, which are not run again.
        pixel_values: ``[N, 3, S, S]``, the pictures of all prompts in order.
        high_res_pixel_values: The same for the other tower, if there is one.
        max_new_tokens: Most new tokens of each answer.
        max_length: Most tokens of padded prompt and answer together, unless ``max_new_tokens`` is
            given.
        min_new_tokens: No answer ends before.
        min_length: The same with the padded prompt.
        do_sample: Whether to sample rather than to take the likeliest token.
        temperature: Divides the logits.
        top_k: Keep the k likeliest tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probabilities reach this sum.
        min_p: Drop tokens less likely than this share of the likeliest one.
        typical_p: Keep the most typical tokens whose probabilities reach this sum.
        epsilon_cutoff: Drop tokens less likely than this.
        eta_cutoff: The same, less where many tokens are likely.
        repetition_penalty: Above 1 makes tokens of prompt and answer less likely.
        no_repeat_ngram_size: No so many tokens come twice.
        num_beams: Sequences that a beam search follows.
        num_return_sequences: Answers of each prompt.
        length_penalty: Power of the length by which a beam's score is divided.
        early_stopping: Whether a beam search ends with as many answers as beams; ``never`` goes on
            as long as a better one is possible.
        bad_words_ids: Sequences of ids that do not come.
        suppress_tokens: Ids that do not come.
        begin_suppress_tokens: Ids that do not come first.
        forced_bos_token_id: Comes first, behind a single id.
        forced_eos_token_id: Comes last, where an answer reaches its greatest length.
        sequence_bias: Ids, as tuples, and what is added to the score of their last.
        exponential_decay_length_penalty: After so many tokens the end becomes likelier by this
            factor with each.
        remove_invalid_values: Whether scores that are no numbers are replaced.
        renormalize_logits: Whether scores are log-probabilities after all changes.
        eos_token_id: Any of these ends an answer.
        pad_token_id: Fills behind shorter answers; by default the first end of sequence.
        bos_token_id: What an answer to nothing begins with.
        stop_strings: Texts that end an answer; needs the ``tokenizer``.
        tokenizer: With ``decode``.
        max_time: Seconds after which answers end.
        use_cache: Whether keys and values are kept rather than computed again.
        return_dict_in_generate: Whether to return more than ids.
        output_scores: Whether that holds the scores of every step.
        output_logits: Whether it holds the logits.
        output_attentions: Whether it holds attentions.
        output_hidden_states: Whether it holds hidden states.
    """

    input_ids: Tensor | None
    attention_mask: Tensor | None
    position_ids: Tensor | None
    inputs_embeds: Tensor | None
    past_key_values: Any
    pixel_values: Tensor | None
    high_res_pixel_values: Tensor | None
    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int | None
    min_length: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    num_beams: int | None
    num_return_sequences: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    bad_words_ids: Sequence[Sequence[int]] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    sequence_bias: Mapping[tuple[int, ...], float] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    remove_invalid_values: bool | None
    renormalize_logits: bool | None
    eos_token_id: int | Sequence[int] | None
    pad_token_id: int | None
    bos_token_id: int | None
    stop_strings: str | Sequence[str] | None
    tokenizer: Any
    max_time: float | None
    use_cache: bool | None
    return_dict_in_generate: bool | None
    output_scores: bool | None
    output_logits: bool | None
    output_attentions: bool | None
    output_hidden_states: bool | None
