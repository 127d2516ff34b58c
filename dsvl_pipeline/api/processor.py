"""The processors of the reference documentation.

Source of the behaviour: ``ProcessorMixin`` and the processors of ``deepseek_vl`` and
``deepseek_vl_hybrid``, transformers 5.23. Other than there nothing that a chat says becomes a
control token.

Letters: ``B`` prompts, ``T`` tokens of the longest.
"""

# Without postponed annotations: scripts look at those of ``__call__``, as they do upstream.

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from dsvl_pipeline.api import pictures
from dsvl_pipeline.api.chats import Chat, read_chats
from dsvl_pipeline.api.inputs import ModelInputs
from dsvl_pipeline.api.pretrained_processor import PretrainedProcessor
from dsvl_pipeline.api.processor_options import ProcessorOptions, deal, take
from dsvl_pipeline.errors import PromptError
from dsvl_pipeline.processor import chat
from dsvl_pipeline.processor.chat import Rendered
from dsvl_pipeline.wording import amount


class DeepseekVLProcessor(PretrainedProcessor):
    """Chats, texts and pictures to a model's inputs, and ids back to text."""

    valid_processor_kwargs = ProcessorOptions

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "auto",
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        allow_http: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Write one conversation, or a list of them, as the model wants to read it.

        Args:
            conversation: As `read_chats` takes it. Nothing it says becomes a control token.
            chat_template: Jinja source, or the name of one of several.
            add_generation_prompt: Whether the assistant's turn is opened at the end.
            continue_final_message: Whether the last message stays open.
            tokenize: Whether to return ids rather than text.
            return_dict: Whether to return them as `ModelInputs`, with all that the model wants.
            return_tensors: By default ``pt``; with any kind, prompts are padded.
            return_assistant_tokens_mask: Adds ``assistant_masks``: 1 in ``{% generation %}``.
            processor_kwargs: `ProcessorOptions`, which may be given flat as well.
            allow_http: Whether web addresses are fetched, instead of the attribute.
            kwargs: What else the template may use, as ``tools``.
        """
        _check_flags(add_generation_prompt, continue_final_message, return_assistant_tokens_mask)
        options = {**(processor_kwargs or {}), **take(kwargs)}
        if return_tensors != "auto":
            options["return_tensors"] = return_tensors
        chats, is_batch = read_chats(conversation)
        turn = (add_generation_prompt, bool(continue_final_message))
        texts = self._render(chats, chat_template, turn, kwargs)
        if not tokenize:
            written = [self._guard.reveal(text.text) for text in texts]
            return written if is_batch else written[0]
        options |= {"allow_http": allow_http, "marks_answers": return_assistant_tokens_mask}
        inputs = self._chat_inputs(chats, texts, options)
        return inputs if return_dict else inputs["input_ids"]

    def _render(
        self,
        chats: Sequence[Chat],
        chat_template: str | None,
        turn: tuple[bool, bool],
        variables: Mapping[str, Any],
    ) -> list[Rendered]:
        template = self._encoder.template(self.tokenizer, self._source(chat_template))
        return [
            template.render(
                one.messages,
                variables=variables,
                keeps_strings=chat_template is not None,
                add_generation_prompt=turn[0],
                continue_final_message=turn[1],
            )
            for one in chats
        ]

    def _chat_inputs(
        self, chats: Sequence[Chat], texts: Sequence[Rendered], options: dict[str, Any]
    ) -> ModelInputs:
        images = pictures.flatten(options.pop("images", None) or [])
        if images:  # for templates that place them from other variables
            self._check_places(texts, len(images))
            return self._inputs(texts, images, **options)
        for one, text in zip(chats, texts, strict=True):
            wanted, found = chat.count_images(one.messages), self._num_places([text])
            if found != wanted:
                raise PromptError(
                    "prompt_template",
                    f"the messages hold {amount(wanted, 'image part')}, but the chat template "
                    f"wrote {amount(found, 'image placeholder')}; put images where it expects "
                    "them, in a user's message",
                )
            one.check_count()
        return self._inputs(texts, [source for one in chats for source in one.sources], **options)

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        *,
        allow_http: bool | None = None,
        **kwargs: Unpack[ProcessorOptions],
    ) -> ModelInputs:
        """Prepare text that is already written as a chat, and its pictures.

        Args:
            images: As for the image processor, in the order of their placeholders.
            text: One or several. Trusted: control tokens that it names are control tokens.
            allow_http: Whether web addresses are fetched, instead of the attribute.
            kwargs: See `ProcessorOptions`. By default tensors are returned.

        Returns:
            `ModelInputs` of what is given: ``input_ids``, ``attention_mask``, and pixel values.

        Raises:
            PromptError: Placeholders and pictures differ in number, or a text is too long.
            ImageError: A picture cannot be had or decoded.
            ValueError: Nothing is given, or an option has no such value. The others are
                ValueErrors as well.
        """
        options: dict[str, Any] = {**kwargs}
        if any(options.pop(kind, None) is not None for kind in ("videos", "audio")):
            raise ValueError("these models see pictures only; videos and audio cannot be given")
        if images is None and text is None:
            raise ValueError(f"{type(self).__name__} needs a text, or images, or both")
        sources = [] if images is None else pictures.flatten(images)
        if text is None:
            return self._pixels(sources, self._merge_kwargs(**options)["images_kwargs"], allow_http)
        texts = [text] if isinstance(text, str) else list(text)
        if not all(isinstance(one, str) for one in texts):
            raise ValueError("the text must be a string or a list of strings")
        hidden = [Rendered(self._guard.hide(one), ()) for one in texts]
        self._check_places(hidden, len(sources))
        return self._inputs(hidden, sources, allow_http=allow_http, **options)

    def _inputs(
        self,
        texts: Sequence[Rendered],
        images: Sequence[Any],
        *,
        allow_http: bool | None,
        marks_answers: bool = False,
        **options: Any,
    ) -> ModelInputs:
        dealt = self._merge_kwargs(**options)
        inputs = self._encoder.inputs(
            self.tokenizer,
            texts,
            dealt["text_kwargs"],
            num_image_tokens=self.num_image_tokens,
            most=self.max_prompt_tokens,
            marks_answers=marks_answers,
        )
        if images:
            inputs.update(self._pixels(images, dealt["images_kwargs"], allow_http))
        return inputs

    def _pixels(
        self, sources: Sequence[Any], options: Mapping[str, Any], allow_http: bool | None
    ) -> ModelInputs:
        allowed = self.allow_http if allow_http is None else allow_http
        opened = [pictures.read(source, allow_http=allowed) for source in sources]
        return ModelInputs(self.image_processor(opened, **options))

    # Other programs know it by this name, and take its answer apart.
    def _merge_kwargs(
        self, _: Any = None, tokenizer_init_kwargs: Any = None, **options: Any
    ) -> dict[str, dict[str, Any]]:
        for_texts, for_images = deal(options, self.tokenizer)
        return {"text_kwargs": for_texts, "images_kwargs": for_images}

    def _num_places(self, texts: Sequence[Rendered]) -> int:
        alias = self._guard.aliases[self.image_token]
        return sum(text.text.count(alias) for text in texts)

    def _check_places(self, texts: Sequence[Rendered], num_images: int) -> None:
        num_places = self._num_places(texts)
        if num_places != num_images:
            raise PromptError(
                "image_count",
                f"the text has {amount(num_places, 'image placeholder')} "
                f"({self.image_token}) but {amount(num_images, 'image')} given; add the others "
                "or remove some",
            )

    def _source(self, chat_template: str | None) -> str:
        """Return the source of the chat template that is named, or given, or the own one."""
        own = self.chat_template
        if isinstance(own, dict):
            if chat_template is None and "default" not in own:
                raise ValueError(
                    f"there are the chat templates {', '.join(own)}, and none is called "
                    "'default'; say which by chat_template"
                )
            return own.get(chat_template or "default", chat_template or "")
        found = chat_template or own
        if found is None:
            raise ValueError(
                "this processor has no chat template; give one by chat_template, here or to the "
                "constructor"
            )
        return found

    def decode(self, *args: Any, **kwargs: Any) -> Any:
        """Turn ids into text, see `Tokenizer.decode`."""
        return self.tokenizer.decode(*args, **kwargs)

    def batch_decode(self, *args: Any, **kwargs: Any) -> Any:
        """Turn rows of ids into texts, see `Tokenizer.batch_decode`."""
        return self.tokenizer.batch_decode(*args, **kwargs)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> Any:
        """Turn what ``generate`` returns into texts, without control tokens."""
        return self.decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def replace_image_token(self, image_inputs: Any = None, image_idx: int = 0) -> str:
        """Return what a placeholder of a picture becomes in a text."""
        return self.image_token * self.num_image_tokens


class DeepseekVLHybridProcessor(DeepseekVLProcessor):
    """Chats, texts and pictures to the inputs of a model with two towers."""

    is_hybrid = True


def _check_flags(opens_turn: bool, continues: bool, marks_answers: bool) -> None:
    if continues and opens_turn:
        raise ValueError(
            "continue_final_message and add_generation_prompt exclude each other: an answer goes "
            "on with the last message, or begins a new one"
        )
    if continues and marks_answers:
        raise ValueError(
            "continue_final_message and return_assistant_tokens_mask exclude each other"
        )
