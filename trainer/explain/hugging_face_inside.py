"""The inside of a Hugging Face causal model, whatever its architecture: only its list of layers is looked for.

What comes after the layers (norms, projections, scaled or capped logits) is the model's own business: for the lens it
is run with its layers giving out the residual in question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trainer.errors import InputError
from trainer.model.hugging_face.causal_lm import CausalLM

MOST_MAP_BYTES = 2 * 2**30  # of a layer's attention, which Hugging Face's code gives out whole
TOLERANCE = 1e-3  # of the largest logit: how far the lens of the last layer may be from the model's own logits


class HuggingFaceInside:
    """See trainer.explain.inside.Inside."""

    def __init__(self, model: CausalLM, name: str) -> None:
        self._inner = model.inner
        self._name = f"{name}: {model.inner.config.model_type}"
        self.embedding: nn.Embedding = model.inner.get_input_embeddings()
        self.head: nn.Module = model.inner.get_output_embeddings()
        self._layers = self._find_layers()
        self._forms: list[Callable[[Tensor], Any]] = []
        self._tokens = torch.zeros(0, dtype=torch.long)
        if self.head is None:
            raise InputError(f"{self._name} has no head that gives logits, which explain looks through.")

    @property
    def attention_heads(self) -> int:
        """Those of all layers, by its config.json."""
        heads = getattr(self._inner.config.get_text_config(), "num_attention_heads", None)
        return len(self._layers) * heads if isinstance(heads, int) else 0

    def _find_layers(self) -> nn.ModuleList:
        count = self._inner.config.get_text_config().num_hidden_layers
        lists = [part for part in self._inner.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
        if not lists:
            raise InputError(f"{self._name} has no list of {count} layers, between which explain looks.")
        return lists[0]

    @torch.no_grad()
    def residuals(
        self, tokens: Tensor, *, first: int = 0, see_map: Callable[[int, Tensor], None] | None = None
    ) -> list[Tensor]:
        """After the embedding, and after each layer."""
        found: list[Tensor] = []
        self._forms, self._tokens = [], tokens

        def keep(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            if not found:
                found.append((arguments[0] if arguments else keywords["hidden_states"])[0])
            hidden = output[0] if isinstance(output, tuple) else output
            rest = output[1:] if isinstance(output, tuple) else None
            self._forms.append((lambda each: each) if rest is None else (lambda each: (each, *rest)))
            found.append(hidden[0])

        with ExitStack() as undo:
            for layer in self._layers:
                undo.callback(layer.register_forward_hook(keep, with_kwargs=True).remove)
            if see_map is not None and self._maps_fit(len(tokens)):
                self._watch_attention(undo, len(tokens), first, see_map)
            logits = self._inner(input_ids=tokens[None]).logits[0]
        self._check_lens(found[-1], logits.float())
        return found

    def _maps_fit(self, time: int) -> bool:
        return 4 * self.attention_heads // len(self._layers) * time**2 <= MOST_MAP_BYTES

    def _watch_attention(self, undo: ExitStack, time: int, first: int, see_map: Callable[[int, Tensor], None]) -> None:
        """Shows each layer's attention as its modules give it out, so that only one layer's is there at a time."""
        before = self._inner.config._attn_implementation
        self._inner.set_attn_implementation("eager")  # other kernels give out no attention
        undo.callback(self._inner.set_attn_implementation, before)
        seen: set[int] = set()

        def look(number: int, output: Any) -> None:
            for part in output if isinstance(output, tuple) else ():
                is_map = isinstance(part, Tensor) and part.ndim == 4 and part.shape[2:] == (time, time)
                if is_map and number not in seen:
                    seen.add(number)
                    see_map(number, part[0, :, first:].float())

        for number, layer in enumerate(self._layers, start=1):
            for part in layer.modules():
                if part is not layer:
                    handle = part.register_forward_hook(lambda m, i, output, number=number: look(number, output))
                    undo.callback(handle.remove)

    def _check_lens(self, last: Tensor, logits: Tensor) -> None:
        """Refuses a model whose logits don't follow from its last layer alone."""
        some = slice(0, 8)
        through = self.lens(last[some])
        if (through - logits[some]).abs().max() > TOLERANCE * (1 + logits[some].abs().max()):
            raise InputError(f"{self._name}: its logits don't follow from its last layer's output alone; no lens fits.")

    @torch.no_grad()
    def lens(self, residual: Tensor) -> Tensor:
        """All that the model does after its layers."""
        tokens = self._tokens[: len(residual)]
        with self._giving(residual[None]):
            logits: Tensor = self._inner(input_ids=tokens[None]).logits[0]
        return logits.float()

    @contextmanager
    def _giving(self, residual: Tensor) -> Iterator[None]:
        """Where every layer gives out a residual, in the form of its own output, and computes nothing."""
        with ExitStack() as undo:
            for layer, form in zip(self._layers, self._forms, strict=True):
                layer.forward = lambda *_, _form=form, **__: _form(residual)
                undo.callback(delattr, layer, "forward")
            yield

    def logits_at(self, tokens: Tensor, position: int) -> Tensor:
        """The model's own."""
        logits: Tensor = self._inner(input_ids=tokens[None]).logits[0, position]
        return logits.float()
