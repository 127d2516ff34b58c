"""Messages to chat text, through the checkpoint's own template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes

from dsvl_pipeline.errors import CheckpointError, PromptError
from dsvl_pipeline.model.json_files import read_optional_json
from dsvl_pipeline.model.original import MODEL_TYPE as ORIGINAL
from dsvl_pipeline.processor.template_language import CONTINUED, environment, take_marks

Message = Mapping[str, Any]
"""``{"role": ..., "content": text}``, or content as a list of parts, each
``{"type": "text", "text": ...}`` or ``{"type": "image"}``."""

# The original dialect ships no template; this one writes what its code writes.
# Source: deepseek_vl/utils/conversation.py, deepseek-ai/DeepSeek-VL; arXiv 2403.05525, section 3.
BUILT_IN_TEMPLATE = """\
{%- set default_system -%}
You are a helpful language and vision assistant. You are able to understand the visual content \
that the user provides, and assist the user with a variety of tasks using natural language.
{%- endset -%}
{%- macro write(content) -%}
  {%- set ns = namespace(text='') -%}
  {%- for part in content -%}
    {%- if part.type == 'image' -%}
      {%- set ns.text = ns.text ~ '<image_placeholder>' -%}
    {%- else -%}
      {%- set gap = ' ' if loop.previtem and loop.previtem.type == 'text' else '' -%}
      {%- set ns.text = ns.text ~ gap ~ part.text -%}
    {%- endif -%}
  {%- endfor -%}
  {{- ns.text | trim -}}
{%- endmacro -%}
{%- if messages[0].role | lower != 'system' -%}
  {{- default_system ~ '\\n\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set role = message.role | lower -%}
  {%- if role == 'system' -%}
    {{- write(message.content) ~ '\\n\\n' -}}
  {%- else -%}
    {{- role | capitalize ~ ': ' ~ write(message.content) -}}
    {%- if not loop.last or add_generation_prompt -%}
      {{- '\\n\\n' if role == 'user' else eos_token -}}
    {%- endif -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- 'Assistant:' -}}
{%- endif -%}
"""


class ChatTemplate:
    """A compiled chat template that spells control tokens by their aliases (`tokens.py`).

    The aliases take the place of the tokens in the template's own text and strings; what messages
    hold stays as it is. A template that joins a control token out of pieces is not understood.
    """

    def __init__(
        self, source: str, hide: Callable[[str], str], named_tokens: Mapping[str, str]
    ) -> None:
        """Compile a template.

        Args:
            source: Jinja source.
            hide: Puts aliases in place of control tokens.
            named_tokens: Variables such as ``bos_token`` for the template.

        Raises:
            CheckpointError: The source is not valid Jinja.
        """
        self._variables = {name: hide(token) for name, token in named_tokens.items()}
        language = environment()
        try:
            tree = language.parse(source)
            for node in tree.find_all((nodes.TemplateData, nodes.Const)):
                if isinstance(node, nodes.TemplateData):
                    node.data = hide(node.data)
                elif isinstance(node, nodes.Const) and isinstance(node.value, str):
                    node.value = hide(node.value)
            self._template = language.from_string(tree)
        except jinja2.TemplateError as error:
            raise CheckpointError(
                f"the checkpoint's chat template does not compile: {error}; fetch it again"
            ) from error

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        keeps_strings: bool = False,
    ) -> Rendered:
        """Write a chat.

        Args:
            messages: Need at least one.
            add_generation_prompt: Whether the assistant's turn is opened at the end.
            continue_final_message: Whether the chat ends with the last message's last text.
            variables: What else the template may use. Nothing in them becomes a control token.
            keeps_strings: Whether the template sees texts as such, and not as lists of parts.

        Raises:
            PromptError: Code ``prompt_malformed`` where the messages are not of the form
                described under `Message`, ``prompt_template`` where the template refuses them.
        """
        plain = _plain_messages(messages, is_continued=continue_final_message)
        if keeps_strings:
            plain = [_with_string(one, given) for one, given in zip(plain, messages, strict=True)]
        try:
            rendered = self._template.render(
                {
                    "tools": None,
                    "documents": None,
                    **self._variables,
                    **(variables or {}),
                    "messages": plain,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except Exception as error:  # a template may trip over a role or order in any way
            raise PromptError(
                "prompt_template",
                f"rendering the prompt: the checkpoint's chat template refused it: {error}; "
                "check roles and order of the messages",
            ) from error
        if continue_final_message:
            rendered = _cut_after_final_text(rendered)
        return Rendered(*take_marks(rendered))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chat as text.

    Attributes:
        text: With aliases for control tokens.
        generated: First character, and the one behind the last, of all that the template marks by
            ``{% generation %}`` as the assistant's.
    """

    text: str
    generated: tuple[tuple[int, int], ...]


def _plain_messages(messages: Sequence[Message], *, is_continued: bool) -> list[dict[str, Any]]:
    plain = [_plain_message(message, index) for index, message in enumerate(messages)]
    if not plain:
        raise PromptError("prompt_malformed", "the prompt has no messages; it needs at least 1")
    if not is_continued:
        return plain
    texts = [part for part in plain[-1]["content"] if part["type"] == "text"]
    if not texts:
        raise PromptError(
            "prompt_malformed",
            "continue_final_message is set, but the final message has no text to continue",
        )
    texts[-1]["text"] += CONTINUED
    return plain


def _cut_after_final_text(rendered: str) -> str:
    mark = CONTINUED.rstrip()
    if mark not in rendered:
        raise PromptError(
            "prompt_template",
            "continue_final_message is set, but the chat template left the final message out",
        )
    text, _, rest = rendered.rpartition(mark)
    # the mark ends with a space: without it the template trims texts
    return text if rest.startswith(" ") else text.rstrip()


def _with_string(plain: dict[str, Any], given: Message) -> dict[str, Any]:
    if isinstance(given.get("content"), str):
        return {**plain, "content": plain["content"][0]["text"]}
    return plain


def read_template(directory: Path) -> str | None:
    """Return the checkpoint's chat template, or None where it has none.

    Raises:
        CheckpointError: A file cannot be read, or holds several templates and no default.
    """
    found = read_templates(directory)
    if isinstance(found, dict):
        if "default" not in found:
            raise CheckpointError(
                f"{directory} has the chat templates {', '.join(found)}; one of them must be "
                "called 'default'"
            )
        return found["default"]
    return found


def read_templates(directory: Path) -> str | dict[str, str] | None:
    """Return the checkpoint's chat template, or all of several by name.

    In the original layout tokenizer_config.json holds the language model's own, which the
    checkpoint was not trained with: there it does not count.

    Raises:
        CheckpointError: A file cannot be read.
    """
    others = {
        path.stem: path.read_text(encoding="utf-8")
        for path in sorted((directory / "additional_chat_templates").glob("*.jinja"))
    }
    path = directory / "chat_template.jinja"
    if path.exists():
        default = path.read_text(encoding="utf-8")
        return {"default": default, **others} if others else default
    places = ["chat_template.json", "processor_config.json"]
    if read_optional_json(directory / "config.json").get("model_type") != ORIGINAL:
        places.append("tokenizer_config.json")
    for name in places:
        found = read_optional_json(directory / name).get("chat_template")
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}
        if isinstance(found, dict | str):
            return found
    return others or None


def count_images(messages: Sequence[Message]) -> int:
    """Image parts of a chat."""
    return sum(
        part["type"] == "image"
        for index, message in enumerate(messages)
        for part in _plain_message(message, index)["content"]
    )


def _plain_message(message: Message, index: int) -> dict[str, Any]:
    """A message of strings, dictionaries and lists alone: nothing a template could misuse."""
    role, content = message.get("role"), message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(role, str) or not isinstance(parts, list | tuple):
        raise PromptError(
            "prompt_malformed",
            f"message {index} of the prompt has role {role!r} and content of type "
            f"{type(content).__name__}; needed are a text and a text or list of parts",
        )
    return {"role": _encodable(role), "content": [_plain_part(part, index) for part in parts]}


def _plain_part(part: Any, index: int) -> dict[str, str]:
    match part:
        case {"type": "image"}:
            return {"type": "image"}
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": _encodable(text)}
    raise PromptError(
        "prompt_malformed",
        f"message {index} of the prompt has the part {part!r:.80}; parts are "
        '{"type": "text", "text": ...} and {"type": "image"}',
    )


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise PromptError(
                "prompt_malformed",
                f"the prompt holds {text[error.start]!r}, half of a surrogate pair; "
                "write it as valid Unicode",
            ) from error
    return str(text)
