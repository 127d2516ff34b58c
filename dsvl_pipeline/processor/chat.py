"""Messages to chat text, through the checkpoint's own template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dsvl_pipeline.errors import CheckpointError, PromptError
from dsvl_pipeline.model.json_files import read_optional_json
from dsvl_pipeline.model.original import MODEL_TYPE as ORIGINAL

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
        environment = _environment()
        try:
            tree = environment.parse(source)
            for node in tree.find_all((nodes.TemplateData, nodes.Const)):
                if isinstance(node, nodes.TemplateData):
                    node.data = hide(node.data)
                elif isinstance(node, nodes.Const) and isinstance(node.value, str):
                    node.value = hide(node.value)
            self._template = environment.from_string(tree)
        except jinja2.TemplateError as error:
            raise CheckpointError(
                f"the checkpoint's chat template does not compile: {error}; fetch it again"
            ) from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        """Write a chat.

        Args:
            messages: Need at least one.
            add_generation_prompt: Whether the assistant's turn is opened at the end.

        Raises:
            PromptError: Code ``prompt_malformed`` where the messages are not of the form
                described under `Message`, ``prompt_template`` where the template refuses them.
        """
        plain = [_plain_message(message, index) for index, message in enumerate(messages)]
        if not plain:
            raise PromptError("prompt_malformed", "the prompt has no messages; it needs at least 1")
        try:
            return self._template.render(
                messages=plain,
                add_generation_prompt=add_generation_prompt,
                tools=None,
                documents=None,
                **self._variables,
            )
        except Exception as error:  # a template may trip over a role or order in any way
            raise PromptError(
                "prompt_template",
                f"rendering the prompt: the checkpoint's chat template refused it: {error}; "
                "check roles and order of the messages",
            ) from error


def read_template(directory: Path) -> str | None:
    """Return the checkpoint's chat template, or None where it has none.

    In the original layout tokenizer_config.json holds the language model's own, which the
    checkpoint was not trained with: there it does not count.

    Raises:
        CheckpointError: A file cannot be read, or holds several templates and no default.
    """
    path = directory / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    places = ["chat_template.json", "processor_config.json"]
    if read_optional_json(directory / "config.json").get("model_type") != ORIGINAL:
        places.append("tokenizer_config.json")
    for name in places:
        found = read_optional_json(directory / name).get("chat_template")
        if isinstance(found, list):
            found = {entry["name"]: entry["template"] for entry in found}
        if isinstance(found, dict):
            if "default" not in found:
                raise CheckpointError(
                    f"{directory / name} has the chat templates {', '.join(found)}; one of them "
                    "must be called 'default'"
                )
            found = found["default"]
        if isinstance(found, str):
            return found
    return None


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


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; here it has no effect."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: the environment that transformers gives them."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


# Jinja's own filter escapes HTML.
def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)
