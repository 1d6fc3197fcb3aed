"""Jinja for templates of others: they reach nothing but what they are given, and can't take memory or time at will.

Jinja's own sandbox keeps a template from Python's insides. It bounds neither texts that are doubled again and again nor
loops within loops; here all steps of a rendering are counted together, and whatever makes a text is asked how long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Namespace
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_STEPS = 200_000  # elements of all loops and ranges of a rendering
MOST_CHARACTERS = 2**24  # of a text; and of a list, elements
LEFT_OUT = ("center", "format", "pprint", "random", "wordwrap", "urlize", "xmlattr", "batch", "slice", "filesizeformat")
OF_TEXTS = ("center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill", "translate")  # methods left out


class _Generation(Extension):
    """{% generation %}…{% endgeneration %}, by which some templates mark answers: rendered as its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The content."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Generator(CodeGenerator):
    """Compiles joins of texts so that they are bounded."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.join_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Sandbox(ImmutableSandboxedEnvironment):
    """Hugging Face's environment for chat templates, bounded. `begin` is called before each rendering."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.concat = self.join_texts  # type: ignore[method-assign]
        self.filters = {name: function for name, function in FILTERS.items() if name not in LEFT_OUT}
        self.filters |= {
            "tojson": _to_json,
            "replace": lambda text, old, new, count=None: self._replace(str(text), str(old), str(new)),
            "join": lambda values, between="", attribute=None: self._join(str(between), values, attribute),
            "indent": lambda text, width=4, first=False, blank=False: self._indent(str(text), width, first, blank),
            "counted_steps": self._counted,
        }
        self.globals = {
            "range": self._range,
            "namespace": Namespace,
            "dict": dict,
            "raise_exception": _refuse,
            "strftime_now": _refuse_day,
        }
        self.begin()

    def begin(self) -> None:
        """All steps are there again."""
        self._left = MOST_STEPS

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template, whose loops are counted."""
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "counted_steps", [], [], None, None, lineno=loop.lineno)
        return template

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuses powers and formatting, and products and sums that are long."""
        if operator == "**" or (operator == "%" and isinstance(left, str)):
            raise SecurityError(f"the operator {operator} isn't for templates")
        sizes = [len(side) if isinstance(side, str | list | tuple) else None for side in (left, right)]
        for size, other in zip(sizes, (right, left), strict=True):
            if operator == "*" and size is not None and isinstance(other, int):
                _bound(size * other)
        if operator == "+" and None not in sizes:
            _bound(sum(size or 0 for size in sizes))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, called: Any, *arguments: Any, **options: Any) -> Any:
        """Calls; methods of texts that make long ones are bounded, or left out."""
        owner, name = getattr(called, "__self__", None), getattr(called, "__name__", "")
        if isinstance(owner, str):
            if name in OF_TEXTS:
                raise SecurityError(f"the method {name} isn't for templates")
            if name == "replace" and len(arguments) >= 2:
                return self._replace(owner, str(arguments[0]), str(arguments[1]))
            if name == "join" and arguments:
                return self._join(owner, arguments[0], None)
        return super().call(context, called, *arguments, **options)

    def join_texts(self, parts: Iterable[Any]) -> str:
        """The parts as one text."""
        found, size = [], 0
        for part in parts:
            found.append(str(part))
            size += len(found[-1])
            _bound(size)
        return "".join(found)

    def _replace(self, text: str, old: str, new: str) -> str:
        _bound(len(text) + text.count(old) * len(new))
        return text.replace(old, new)

    def _join(self, between: str, values: Iterable[Any], attribute: Any) -> str:
        texts = [str(value if attribute is None else self.getitem(value, attribute)) for value in self._counted(values)]
        _bound(sum(map(len, texts)) + len(between) * len(texts))
        return between.join(texts)

    def _indent(self, text: str, width: int | str, first: bool, blank: bool) -> str:
        size = len(width) if isinstance(width, str) else width
        _bound(len(text) + (text.count("\n") + 1) * size)
        indented: str = FILTERS["indent"](text, width, first, blank)
        return indented

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._spend(1)
            yield value

    def _range(self, *bounds: int) -> range:
        found = range(*bounds)
        self._spend(len(found))
        return found

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise SecurityError(f"it takes more than {MOST_STEPS:,} steps")


def _bound(size: int) -> None:
    if size > MOST_CHARACTERS:
        raise SecurityError(f"it makes a text of more than {MOST_CHARACTERS:,} characters")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _refuse_day(form: str) -> NoReturn:
    raise TemplateError("it writes today's date, with which the same data would be others tomorrow")


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
