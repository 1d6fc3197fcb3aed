"""The tensor-parallel plan that a Hugging Face model publishes, as our Partition and DeepSpeed's AutoTP want it.

A plan maps modules, as "model.layers.*.self_attn.q_proj", to styles (transformers/distributed/tensor_parallel.py):

    colwise                          weight and bias cut by outputs, which stay cut
    colwise_gather_output            the same, and the outputs are gathered: an untied head
    rowwise                          weight cut by inputs, bias whole
    replicated_with_grad_allreduce   whole, but applied to a rank's own heads: gradients are partial
    embedding_rowwise                an embedding cut by vocabulary; it is left whole here, as its input and output are
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.errors import ConfigError, divisors
from trainer.model.partition import Partition, Slice

CUT_BY_OUTPUTS = ("colwise", "colwise_gather_output", "colwise_rep")
GATHERED = ("colwise_gather_output", "colwise_rep")
CUT = (*CUT_BY_OUTPUTS, "rowwise")
PARTIAL = "replicated_with_grad_allreduce"
KNOWN = (*CUT, PARTIAL, "embedding_rowwise")


@dataclass(frozen=True)
class PlannedPartition(Partition):
    """A Partition by a published plan, {module pattern: style}."""

    plan: Mapping[str, str] = field(default_factory=dict)

    def slice_of(self, name: str) -> Slice | None:
        """The slice of the parameter `name` that this rank holds, or None for all of it."""
        dim = planned_cut(self.plan, name)
        if self.degree == 1 or dim is None:
            return None
        share, over = divmod(self.shapes[name][dim], self.degree)  # over: of a gathered head only
        start = self.rank * share + min(self.rank, over)
        return Slice(dim, start, start + share + (self.rank < over))

    def layer_specs(self) -> list[dict[str, Any]]:
        """The cut as AutoTP wants it said; a head that is tied to the embedding isn't in `shapes`, and stays whole."""
        specs: list[dict[str, Any]] = []
        for pattern, style in self.plan.items():
            if not any(_covers(pattern, name) for name in self.shapes):
                continue
            # DeepSpeed sees the module that the model is wrapped in as well
            spec: dict[str, Any] = {"patterns": [rf"(?:.*\.)?{_regex(pattern)}\.weight$"]}
            if style in CUT_BY_OUTPUTS:
                specs.append(spec | {"partition_type": "column", "gather_output": style in GATHERED})
            elif style == "rowwise":
                specs.append(spec | {"partition_type": "row"})
            elif style == PARTIAL:
                specs.append(spec | {"partition_type": "skip", "grad_allreduce": True})
        return specs


def planned_cut(plan: Mapping[str, str], name: str) -> int | None:
    """The dimension along which a plan cuts a parameter, or None."""
    style = next((style for pattern, style in plan.items() if _covers(pattern, name)), None)
    if style in CUT_BY_OUTPUTS:
        return 0
    return 1 if style == "rowwise" and name.endswith(".weight") else None


def check_plan(inner: Any, shapes: Mapping[str, tuple[int, ...]], degree: int) -> dict[str, str]:
    """The plan of a Hugging Face model, for `degree` ranks. ConfigError if it has none, or one that can't be."""
    config = inner.config
    kind, key = config.model_type, f"parallel.tensor={degree}"
    there = [*shapes, *(name for name, _ in inner.named_modules())]
    plan = {p: style for p, style in inner._tp_plan.items() if any(re.fullmatch(_regex(p), name) for name in there)}
    unknown = next((pattern for pattern, style in plan.items() if style not in KNOWN), None)
    if unknown is not None:
        raise ConfigError(
            f"{key}: Hugging Face's plan for {kind} has {unknown} as {plan[unknown]}, which DeepSpeed's AutoTP doesn't "
            "know; use parallel.tensor=1, and parallel.zero_stage=3 for memory."
        )
    if not any(style in CUT for style in plan.values()):
        raise ConfigError(
            f"{key}: transformers publishes no tensor-parallel plan for {kind}; use parallel.tensor=1, and "
            "parallel.zero_stage=3 for memory."
        )
    counts = (getattr(config, key, None) for key in ("num_key_value_heads", "num_attention_heads"))
    heads = next((int(count) for count in counts if count), degree)
    if heads % degree:
        raise ConfigError(
            f"{key} doesn't divide the {heads} key and value heads of {kind}: use parallel.tensor="
            f"{' or '.join(map(str, divisors(heads)))}."
        )
    for name, shape in shapes.items():
        dim = planned_cut(plan, name)
        gathered = any(style in GATHERED and _covers(pattern, name) for pattern, style in plan.items())
        if dim is not None and shape[dim] % degree and not gathered:
            raise ConfigError(f"{key} doesn't divide {shape[dim]}, which it cuts {name} along; use parallel.tensor=1.")
    return plan


def _covers(pattern: str, name: str) -> bool:
    """Whether a parameter is one of the module that a pattern names."""
    return re.fullmatch(_regex(pattern), name.rpartition(".")[0]) is not None


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", r"\d+")
