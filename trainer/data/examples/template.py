"""Chat templates: Jinja, rendered as Hugging Face renders them, in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError

from trainer.data.examples.faults import TEMPLATE, ExampleFault
from trainer.data.examples.sandbox import Sandbox
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, read_regular

CHATML = "chatml"
NAMED = {
    CHATML: "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
}
MOST_BYTES = 2**20  # of a template; the largest known have some 20 kB


@dataclass(frozen=True)
class ChatTemplate:
    """A template's text, and the special tokens that it may name: bos_token, eos_token and so on."""

    text: str
    special_tokens: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _sandbox(self) -> Sandbox:
        return Sandbox()

    @cached_property
    def _template(self) -> Template:
        try:
            return self._sandbox.from_string(self.text)
        except (TemplateError, RecursionError) as error:
            raise InputError(f"the chat template can't be read ({_first_line(error)}); mend it.") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: list[Any] | None = None,
    ) -> str:
        """The text of a chat, special tokens spelt out. ExampleFault where the template fails or refuses it."""
        template = self._template
        self._sandbox.begin()
        given = {**dict(self.special_tokens), "messages": [dict(message) for message in messages], "tools": tools}
        try:
            return template.render(**given, documents=None, add_generation_prompt=add_generation_prompt)
        except Exception as error:  # what a template of others does to a record of others
            raise ExampleFault(TEMPLATE, f"the chat template fails: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def read_template(given: str, key: str = "data.chat_template") -> str:
    """The text of a template by its name in NAMED, or of a file. InputError, naming the key, where there is none."""
    if given in NAMED:
        return NAMED[given]
    path = Path(given).expanduser()
    try:
        return read_regular(path, most_bytes=MOST_BYTES).decode("utf-8")
    except (OSError, Malformed, UnicodeDecodeError) as error:
        raise InputError(
            f"{key}={given}: no file with a Jinja template ({error}); name one, or {', '.join(NAMED)}."
        ) from error
