"""A mixture of experts in the place of a feed-forward: the router, the experts, and what the router is penalised for.

Each token goes to its likeliest experts, and none is dropped: there is no capacity, so what becomes of a token depends
neither on the tokens beside it nor on the number of ranks. Parameters are named and shaped as in Hugging Face's
Qwen3MoeForCausalLM, so that export is a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Model
from trainer.model.loss import IGNORED

# A tensor that processes exchange → the same shape
Exchange = Callable[[Tensor], Tensor]


class Routing(NamedTuple):
    """How a layer routed a batch.

    balance: (batch,) fp32, each row's load-balancing loss; z: (batch,) fp32, the mean of its tokens' router z-losses;
    load: (num_experts,) int64, token copies that each expert got.
    """

    balance: Tensor
    z: Tensor
    load: Tensor


class Router(nn.Module):
    """How well each expert suits each token; in fp32, whatever the weights are (Switch Transformer, section 2.4)."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, hidden_size) → logits, (…, num_experts) fp32."""
        with torch.autocast(hidden.device.type, enabled=False):
            return F.linear(hidden.float(), self.weight.float())


class Experts(nn.Module):
    """The SwiGLU feed-forwards of a layer, side by side in two tensors; gate and up are one.

    Several processes may hold some of them each (`hold`): they see the same tokens, and sum what their experts say.
    """

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.count = config.num_experts
        self.first = 0
        self._enter: Exchange = _as_it_is
        self._leave: Exchange = _as_it_is
        experts, inner, width = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, width))
        self.down_proj = nn.Parameter(torch.empty(experts, width, inner))

    def hold(self, first: int, enter: Exchange, leave: Exchange) -> None:
        """Says that the parameters are those of the experts from `first` on.

        `enter` passes on what all processes have alike and sums its gradients over them; `leave` sums over them what
        each makes of it, and passes gradients on.
        """
        self.first, self._enter, self._leave = first, enter, leave

    def forward(self, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Σ over the chosen experts of weight · expert(token).

        hidden: (tokens, hidden_size); chosen: (tokens, top_k) int64; weights: (tokens, top_k) fp32 → as hidden.
        Copies of tokens are sorted by expert and go through in one piece: nothing is cut, padded or waited for.
        """
        top_k, held = chosen.shape[1], self.down_proj.shape[0]
        hidden, weights = self._enter(hidden), self._enter(weights)
        ours_first = (chosen.flatten() - self.first) % self.count
        by_expert, order = ours_first.sort(stable=True)
        numbers = torch.arange(held, device=hidden.device)
        ends = torch.searchsorted(by_expert, numbers, right=True, out_int32=True)  # (held,)
        copies = hidden.index_select(0, order // top_k)  # (tokens · top_k, hidden_size)
        gate, up = expert_linear(copies, self.gate_up_proj.to(copies.dtype), ends).chunk(2, dim=-1)
        outputs = expert_linear(F.silu(gate) * up, self.down_proj.to(copies.dtype), ends)
        outputs = outputs.index_select(0, order.argsort()).view(*chosen.shape, -1)  # (tokens, top_k, hidden_size)
        return self._leave((outputs * weights[..., None]).sum(dim=1).to(hidden.dtype))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


class MixtureOfExperts(nn.Module):
    """Router and experts (Shazeer et al. 2017), standing in for FeedForward."""

    def __init__(self, config: Model) -> None:
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.norm_topk_prob = config.norm_topk_prob
        self.dropout = config.dropout
        self.gate = Router(config)
        self.experts = Experts(config)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Routing | None]:
        """(batch, time, hidden_size) → the same, and how it was routed; None of that in evaluation."""
        logits = self.gate(hidden)  # (batch, time, num_experts)
        weights, chosen = choose_experts(logits, self.top_k, normalise=self.norm_topk_prob)
        mixed = self.experts(hidden.flatten(0, 1), chosen.flatten(0, 1), weights.flatten(0, 1)).view_as(hidden)
        routing = measure_routing(logits, chosen) if self.training else None
        return F.dropout(mixed, self.dropout, self.training), routing


def choose_experts(logits: Tensor, top_k: int, *, normalise: bool) -> tuple[Tensor, Tensor]:
    """The likeliest experts of each token and their probabilities, which `normalise` makes sum to 1.

    logits: (…, num_experts) → weights (…, top_k), experts (…, top_k) int64.
    """
    weights, chosen = logits.softmax(dim=-1).topk(top_k, dim=-1)
    if normalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return weights, chosen


def measure_routing(logits: Tensor, chosen: Tensor) -> Routing:
    """What the penalties are made of, each row by itself.

    Balance: E · Σ f_e · P_e, f_e the share of a row's token copies that expert e got and P_e the mean of its
    probabilities: DeepSeek-V3 (arXiv:2412.19437), eq. 17 to 20, which takes it over a sequence as here, so that it
    depends on nothing beside the row. It is 1 where all is even and at most E; Hugging Face's, whose f sums to top_k,
    is top_k times that. z: logsumexp(logits)² (ST-MoE, arXiv:2202.08906, eq. 5).

    logits: (batch, time, num_experts); chosen: (batch, time, top_k). Every token of a row counts, also where its target
    is masked: it is routed like the others.
    """
    experts = torch.arange(logits.shape[-1], device=logits.device)
    counts = (chosen.flatten(1)[..., None] == experts).sum(dim=1)  # (batch, num_experts); exact, unlike sums of floats
    shares = counts / chosen[0].numel()
    balance = len(experts) * (shares * logits.softmax(dim=-1).mean(dim=1)).sum(dim=-1)
    return Routing(balance, logits.logsumexp(dim=-1).square().mean(dim=1), counts.sum(dim=0))


def penalties(routings: list[Routing], targets: Tensor, config: Model) -> Tensor:
    """What is added to each row's summed loss, in nats: (batch,).

    Means over layers, weighted, times the row's targets: divided by the batch's targets, as the loss is, they are means
    over the batch. A row without targets, which only fills a batch up, adds nothing.
    """
    balance = torch.stack([routing.balance for routing in routings]).mean(dim=0)
    z = torch.stack([routing.z for routing in routings]).mean(dim=0)
    each = config.router_aux_loss_coef * balance + config.router_z_loss_coef * z
    return each * (targets != IGNORED).sum(dim=1)


class Tally:
    """Sums of routings since they were last taken, on their device: nobody waits for it."""

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor] | None = None  # load; balance and z over rows, means over layers, and rows

    @torch.no_grad()
    def add(self, routings: list[Routing], targets: Tensor) -> None:
        """Counts a batch, layer by layer, unless all its `targets` are ignored: then it only fills a step up.

        The outputs of a recomputation never come here, so nothing counts twice.
        """
        counts = (targets != IGNORED).any()
        load = torch.stack([routing.load for routing in routings]) * counts
        losses = torch.stack([torch.stack((r.balance.sum(), r.z.sum())) for r in routings]).mean(dim=0)
        losses = torch.cat((losses, losses.new_full((1,), len(targets)))) * counts
        self._sums = (load, losses) if self._sums is None else (self._sums[0] + load, self._sums[1] + losses)

    def take(self) -> tuple[Tensor, Tensor]:
        """Load by layer and expert, (layers, num_experts), and (balance, z, rows), summed; begins anew. fp64, CPU."""
        assert self._sums is not None, "nothing was counted"
        load, losses = self._sums
        self._sums = None
        return load.double().cpu(), losses.double().cpu()


def keep_eager(model: nn.Module) -> None:
    """Leaves the experts of a model out of torch.compile: no two batches have the same numbers of rows per expert."""
    for module in model.modules():
        if isinstance(module, Experts):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]


class _ExpertLinear(torch.autograd.Function):
    """Saves the parameter itself for backward, where autograd's own would save slices or transposes of it.

    ZeRO-3 takes a parameter's data away after forward and brings it back for backward; such views would keep the
    gathered weights of every layer alive in between.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight, ends)
        return multiply(rows, weight.transpose(1, 2), ends)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weight, ends = ctx.saved_tensors
        gradient = gradient.contiguous()
        return multiply(gradient, weight, ends), multiply_outer(gradient, rows, ends), None


def expert_linear(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """weight[e] · row for each row, rows sorted by expert e; expert e's end at ends[e], and 0 comes of what is after.

    rows: (rows, inputs); weight: (experts, outputs, inputs); ends: (experts,) int32 → (rows, outputs).
    """
    return _ExpertLinear.apply(rows, weight, ends)


def multiply(rows: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Each expert's rows times its matrix; 0 for rows of none. (rows, n), (experts, n, m), (experts,) → (rows, m)."""
    if groups(rows):
        beyond = torch.arange(len(rows), device=rows.device)[:, None] >= ends[-1]  # these the kernel leaves unset
        return F.grouped_mm(rows, matrices, offs=ends).masked_fill(beyond, 0.0)
    *pieces, rest = rows.split(_sizes(ends, len(rows)))
    products = [piece @ matrix for piece, matrix in zip(pieces, matrices, strict=True)]
    return torch.cat([*products, rest.new_zeros(len(rest), matrices.shape[2])])


def multiply_outer(left: Tensor, right: Tensor, ends: Tensor) -> Tensor:
    """leftᵀ · right over each expert's rows, 0 if it has none. (rows, n), (rows, m), (experts,) → (experts, n, m)."""
    if groups(left):
        return F.grouped_mm(left.transpose(0, 1), right, offs=ends)
    sizes = _sizes(ends, len(left))
    pieces = list(zip(left.split(sizes), right.split(sizes), strict=True))[:-1]
    return torch.stack([one.transpose(0, 1) @ other for one, other in pieces])


def groups(rows: Tensor) -> bool:
    """Whether all experts go in one kernel, which reads their sizes on the device: bf16 on CUDA, torch's fast path.

    Elsewhere they go one after the other, which on a GPU (fp32) waits for the sizes.
    """
    return rows.is_cuda and rows.dtype == torch.bfloat16


def _sizes(ends: Tensor, rows: int) -> list[int]:
    """Rows of each expert, and of none."""
    return ends.diff(prepend=ends.new_zeros(1), append=ends.new_full((1,), rows)).tolist()
