"""Prompts of task files: Jinja in a sandbox, with a record's fields as names."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trainer.errors import InputError


def fill_template(template: str, record: dict[str, Any], where: str) -> str:
    """The text of a template. InputError says `where` it failed."""
    try:
        return _compiled(template).render(record)
    except TemplateError as error:
        raise InputError(f"{where}: {template[:60]!r}: {error}.") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: {template[:60]!r}: {type(error).__name__}: {error}.") from error


@cache
def _compiled(template: str) -> Template:
    """Blanks at a template's end stay, as in lm-evaluation-harness."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(template)
