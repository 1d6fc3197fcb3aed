"""evaluate.prompts, answered in the loop with the weights of the moment: what a loss doesn't say, a reader sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainer.config import Evaluate
from trainer.data.examples.faults import ExampleFault
from trainer.data.examples.render import Renderer, special_tokens_of
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import ConfigError, require
from trainer.evaluate.sampling import Sampling, decode_stream, generate_tokens
from trainer.ranks.mesh import Mesh


@dataclass(frozen=True)
class Question:
    """A prompt, its ids, and the tokens at which an answer ends besides end of text."""

    prompt: str
    ids: list[int]
    ends: frozenset[int]
    is_chat: bool

    def with_answer(self, answer: str) -> str:
        """Both, as they are logged."""
        return f"{self.prompt}\n→ {answer}" if self.is_chat else self.prompt + answer


@dataclass(frozen=True)
class Questions:
    """Prompts for a model that sees `context_length` tokens at most."""

    asked: list[Question]
    tokenizer: Tokenizer
    context_length: int


def read_questions(settings: Evaluate, tokenizer: Tokenizer, *, context_length: int) -> Questions:
    """evaluate.prompts as ids: by the tokenizer's chat template, as prepare renders chats, or as beginnings of texts.

    ConfigError for one that the template refuses, or that leaves no room for an answer.
    """
    renderer = Renderer(tokenizer)
    is_chat = settings.as_chat and tokenizer.chat_template is not None
    written = special_tokens_of(tokenizer.chat_template or "") if is_chat else []
    lacking = [token for token in written if token not in tokenizer.special_ids]
    require(
        not lacking,
        f"evaluate.prompts: the chat template writes {', '.join(lacking[:3])}, of which the tokenizer knows nothing; "
        "set evaluate.as_chat=false.",
    )
    asked = []
    for number, prompt in enumerate(settings.prompts, start=1):
        place = f"evaluate.prompts, number {number}"
        spelt = renderer.spelt_special(prompt) if is_chat else None
        require(spelt is None, f"{place}: spells the special token {spelt}; mend it, or set evaluate.as_chat=false.")
        try:
            turns = [{"role": "user", "content": prompt}]
            ids = renderer.prompt_ids(turns) if is_chat else tokenizer.encode(prompt) or [tokenizer.end_of_text_id]
        except ExampleFault as fault:
            raise ConfigError(f"{place}: {fault}; mend it, or set evaluate.as_chat=false.") from fault
        if len(ids) >= context_length:
            raise ConfigError(
                f"{place}: {len(ids):,} tokens, of data.sequence_length={context_length:,} that the model sees; "
                "shorten it."
            )
        asked.append(Question(prompt, ids, frozenset(renderer.turn_ends) if is_chat else frozenset(), is_chat))
    return Questions(asked, tokenizer, context_length)


@dataclass(frozen=True)
class AnswerEvaluator:
    """Continues each question by its likeliest tokens; rank 0 hands them to `log(name, text)`.

    All ranks run the model, of which each may hold a part, and take the token that rank 0 chose.
    """

    questions: Questions | None
    engine: Any
    settings: Evaluate
    mesh: Mesh
    log: Callable[[str, str], None]
    beat: Callable[[], None]

    @property
    def every(self) -> int:
        """Steps between evaluations."""
        return self.settings.every if self.questions is not None else 0

    def run(self) -> dict[str, float]:
        """Logs the answers; there are no metrics. Every rank calls it."""
        if self.questions is not None:
            for number, question in enumerate(self.questions.asked, start=1):
                self.log(f"answer-{number}", question.with_answer(self._answer(question, self.questions)))
        return {}

    def _answer(self, question: Question, questions: Questions) -> str:
        def agreed(token: int) -> int:
            self.beat()
            return self.mesh.from_main(token)

        tokens = generate_tokens(
            self.engine.module,
            question.ids,
            Sampling(max_tokens=self.settings.prompt_tokens, temperature=0.0),
            context_length=questions.context_length,
            end_of_text=questions.tokenizer.end_of_text_id,
            also_at=question.ends,
            agreed=agreed,
        )
        return "".join(decode_stream(questions.tokenizer, question.ids, list(tokens)))
