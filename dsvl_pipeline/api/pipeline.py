"""``pipeline("image-text-to-text")``: from pictures and words, or a chat, to an answer.

Source of the behaviour: ``ImageTextToTextPipeline``, transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, TypedDict, Unpack

import torch

from dsvl_pipeline.api.auto import AutoModelForImageTextToText, AutoProcessor
from dsvl_pipeline.api.pipeline_prompts import ConfigValueError, Prompt, batches, read_prompts

TASK = "image-text-to-text"
_MAX_NEW_TOKENS = 256


class PipelineOptions(TypedDict, total=False):
    """How a pipeline is made.

    Attributes:
        processor: A checkpoint's name, or a processor; the model's by default.
        device: Where the model goes; a number is that of a GPU.
        device_map: As of ``from_pretrained``, instead of ``device``.
        dtype: Of the weights; by default the checkpoint's.
        torch_dtype: The older name of ``dtype``.
        revision: Of a hub id; likewise ``token``.
        token: For private models.
        model_kwargs: More for ``from_pretrained``.
        trust_remote_code: Accepted, and without effect: nothing runs code of a checkpoint.
    """

    processor: Any
    device: str | int | torch.device | None
    device_map: Any
    dtype: Any
    torch_dtype: Any
    revision: str | None
    token: str | bool | None
    model_kwargs: Mapping[str, Any] | None
    trust_remote_code: bool | None


def pipeline(
    task: str | None = None, model: Any = None, **options: Unpack[PipelineOptions]
) -> ImageTextToTextPipeline:
    """Load a model and its processor, ready to be called.

    Args:
        task: ``image-text-to-text``, or nothing.
        model: A checkpoint's name, or a model.
        options: `PipelineOptions`.

    Raises:
        TypeError: An option is unknown.
        ValueError: It is another task, no model is named, or a model comes without its processor.
    """
    if unknown := sorted(options.keys() - PipelineOptions.__annotations__.keys()):
        raise TypeError(f"pipeline() takes no {unknown[0]!r}")
    if task not in (None, TASK):
        raise ConfigValueError(f"the task is {task!r}; only {TASK!r} is run here")
    if model is None:
        raise ConfigValueError("no model is given; name a checkpoint, for example model='demo'")
    where = {key: options[key] for key in ("revision", "token") if options.get(key) is not None}
    processor = options.get("processor")
    if _is_name(model):
        processor = model if processor is None else processor
        model = _load(model, where, options)
    if processor is None:
        raise ConfigValueError("a model is given, but no processor; give processor= as well")
    if _is_name(processor):
        processor = AutoProcessor.from_pretrained(processor, **where)
    if (device := options.get("device")) is not None:
        if isinstance(device, int):  # as in transformers: -1 is the CPU
            device = "cpu" if device < 0 else f"cuda:{device}"
        model = model.to(device)
    return ImageTextToTextPipeline(model, processor)


def _load(name: Any, where: Mapping[str, Any], options: PipelineOptions) -> Any:
    dtype = options.get("torch_dtype") or options.get("dtype") or "auto"
    more = dict(options.get("model_kwargs") or {})
    if (device_map := options.get("device_map")) is not None:
        more["device_map"] = device_map
    return AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **where, **more)


class CallOptions(TypedDict, total=False):
    """How a pipeline answers. What else is given is for the processor.

    Attributes:
        batch_size: How many chats are answered at once; 16 by default.
        max_new_tokens: Most tokens of an answer. By default what the checkpoint says, or 256.
        generate_kwargs: More for ``generate``.
        stop_sequence: Texts that end an answer.
        processor_kwargs: More for the processor.
        continue_final_message: Whether to go on with a chat's last message. By default where that
            is the assistant's.
        return_full_text: Whether the prompt, or the chat so far, comes before the answer. It does
            by default.
        return_tensors: Return ids, as ``generated_token_ids``, instead of text.
        skip_special_tokens: Whether control tokens are left out, as they are by default.
    """

    batch_size: int
    max_new_tokens: int | None
    generate_kwargs: Mapping[str, Any] | None
    stop_sequence: str | list[str] | None
    processor_kwargs: Mapping[str, Any] | None
    continue_final_message: bool | None
    return_full_text: bool | None
    return_tensors: bool | None
    skip_special_tokens: bool


_OWN = CallOptions.__annotations__.keys()


class ImageTextToTextPipeline:
    """A model with its processor, to be called with pictures and texts, or chats.

    Attributes:
        model: It answers.
        processor: It makes the model's inputs.
    """

    task = TASK

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.processor.tokenizer

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    def __call__(self, images: Any = None, text: Any = None, **options: Any) -> Any:
        """Answer.

        Args:
            images: A picture or several (path, URL, PIL picture), in the order of their
                placeholders in ``text``; or what ``text`` may be instead.
            text: A text or several; a chat or several; or a dict or several with ``images`` and
                ``text``.
            options: `CallOptions`, and more for the processor.

        Returns:
            A list with a dict for each answer: ``input_text``, and ``generated_text``. Of several
            chats, dicts or texts without pictures, a list of such lists.

        Raises:
            ValueError: There is nothing to answer, or arguments contradict each other.
        """
        own = CallOptions(**{key: options.pop(key) for key in _OWN & options.keys()})  # type: ignore[typeddict-item]
        is_full, is_tensors = own.get("return_full_text"), own.get("return_tensors")
        if is_full is not None and is_tensors is not None:
            raise ConfigValueError("give return_full_text or return_tensors, not both")
        shown = _Shown(is_full is not False, bool(is_tensors), own.get("skip_special_tokens", True))
        generate = _generate_options(self.model, own, self.tokenizer)
        prompts, is_single = read_prompts(images, text)
        options |= own.get("processor_kwargs") or {}
        found = []
        for batch in batches(prompts, own.get("batch_size", 16), own.get("continue_final_message")):
            found += self._answer(batch, options, generate, shown)
        return found[0] if is_single else found

    def _answer(
        self,
        batch: Sequence[Prompt],
        options: Mapping[str, Any],
        generate: Mapping[str, Any],
        shown: _Shown,
    ) -> list[list[dict[str, Any]]]:
        inputs = self._inputs(batch, options)
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        with torch.no_grad():
            sequences = self.model.generate(**inputs, **generate)
        told = [text for prompt in batch for text in prompt.told()]
        num_each = len(sequences) // len(told)
        before = self._texts(inputs["input_ids"], shown) if not shown.is_tensors else []
        whole = self._texts(sequences, shown) if not shown.is_tensors else []
        rows = []
        for index, sequence in enumerate(sequences):
            row = {"input_text": told[index // num_each]}
            if shown.is_tensors:
                row["generated_token_ids"] = sequence
            else:
                answer = whole[index].removeprefix(before[index // num_each])
                row["generated_text"] = (
                    batch[0].with_answer(row["input_text"], answer) if shown.is_full else answer
                )
            rows.append(row)
        sizes = [num_each * len(prompt.told()) for prompt in batch]
        return [rows[sum(sizes[:n]) : sum(sizes[: n + 1])] for n in range(len(sizes))]

    def _inputs(self, batch: Sequence[Prompt], options: Mapping[str, Any]) -> Any:
        first = batch[0]
        if first.chat is None:
            padding = {"padding": True} if isinstance(first.text, list) else {}
            return self.processor(
                images=first.images, text=first.text, return_tensors="pt", **padding, **options
            )
        return self.processor.apply_chat_template(
            [prompt.chat for prompt in batch],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            continue_final_message=first.continues,
            add_generation_prompt=not first.continues,
            **options,
        )

    def _texts(self, ids: Any, shown: _Shown) -> list[str]:
        texts: list[str] = self.processor.post_process_image_text_to_text(
            ids, skip_special_tokens=shown.skips_control
        )
        return texts


class _Shown:
    """What of an answer is wanted."""

    def __init__(self, is_full: bool, is_tensors: bool, skips_control: bool) -> None:
        self.is_full, self.is_tensors, self.skips_control = is_full, is_tensors, skips_control


def _generate_options(model: Any, own: CallOptions, tokenizer: Any) -> dict[str, Any]:
    options = dict(own.get("generate_kwargs") or {})
    if (most := own.get("max_new_tokens")) is not None:
        if "max_new_tokens" in options:
            raise ConfigValueError("max_new_tokens is given twice, once in generate_kwargs")
        options["max_new_tokens"] = most
    default = model.generation_config.max_new_tokens
    if not {"max_new_tokens", "max_length"} & options.keys() and default is None:
        options["max_new_tokens"] = _MAX_NEW_TOKENS
    if (stop := own.get("stop_sequence")) is not None:
        options |= {"stop_strings": [stop] if isinstance(stop, str) else stop}
        options["tokenizer"] = tokenizer
    return options


def _is_name(value: Any) -> bool:
    return isinstance(value, str | PathLike)
