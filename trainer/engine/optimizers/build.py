"""The optimisers: AdamW with decay on matrices and embeddings, none on norms and biases; Muon for hidden matrices."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import nn

from trainer.config import Model, Optimizer
from trainer.engine.deepspeed.muon import import_uncompiled
from trainer.model.mup import rate_scale
from trainer.model.sizes import is_hidden_matrix

# Per-element state, by torch's and DeepSpeed's names.
ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum_buffer",)


class AdamW(torch.optim.AdamW):
    """torch's (Loshchilov and Hutter, 2019), of which the first doesn't import torch's compiler: 2 s of every start.

    torch wraps these methods to keep the compiler out of them, and imports it for that. Nobody compiles them here.
    """

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies to the parameter: not to norms and biases, which have one dimension."""
    return len(getattr(parameter, "ds_shape", parameter.shape)) > 1  # ds_shape: the whole one's, under ZeRO-3


def build_optimizer(
    config: Optimizer, model: Model, parameters: Iterable[tuple[str, nn.Parameter]]
) -> torch.optim.Optimizer:
    """The optimiser over named parameters, in groups by method, weight decay and muP's scale of the learning rate.

    A group's "peak" is the learning rate that the schedule multiplies, and its "scale" what that is multiplied with.
    """
    hidden: list[nn.Parameter] = []
    others: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if config.name == "muon" and is_hidden_matrix(name):
            hidden.append(parameter)
        else:
            others.setdefault((rate_scale(name, model), decays(parameter)), []).append(parameter)
    groups = [
        {
            "params": others[scale, decayed],
            # decay per step is this times the rate: it is to be the same at every width (Wortsman et al., 2023)
            "weight_decay": config.weight_decay / scale if decayed else 0.0,
            "lr": config.lr * scale,
            "peak": config.lr,
            "scale": scale,
            "betas": (config.beta1, config.beta2),
            "eps": config.eps,
        }
        for scale, decayed in sorted(others, reverse=True)
    ]
    if config.name == "muon":
        return _build_muon(config, hidden, groups)
    return AdamW(groups, fused=True)


def _build_muon(config: Optimizer, hidden: list[nn.Parameter], groups: list[dict]) -> torch.optim.Optimizer:
    """DeepSpeed's Muon (Jordan et al., 2024) for `hidden`, and torch's AdamW for the other groups.

    ZeRO finds the matrices to orthogonalize by the attribute `use_muon` of a parameter.
    """
    import_uncompiled()
    from deepspeed.runtime.zero.muon.muon_optimizer import MuonWithAuxAdam

    for group in groups:
        group["use_muon"] = False
    for parameter in hidden:
        parameter.use_muon = True  # type: ignore[attr-defined]
    muon = {
        "params": hidden,
        "use_muon": True,
        "lr": config.muon_lr,
        "peak": config.muon_lr,
        "scale": 1.0,
        "momentum": config.muon_momentum,
        "ns_method": config.muon_newton_schulz,
        "weight_decay": config.weight_decay,
    }
    return MuonWithAuxAdam([*groups, muon], adam_optimizer=torch.optim.AdamW, adam_optimizer_kwargs={"fused": True})


def moments_of(parameter: nn.Parameter) -> tuple[str, ...]:
    """The kinds of per-element state that the optimiser keeps for a parameter."""
    return MUON_MOMENTS if getattr(parameter, "use_muon", False) else ADAMW_MOMENTS


def set_learning_rates(optimizer: torch.optim.Optimizer, rate: Callable[[float], float]) -> None:
    """Sets the rate of every group to `rate` of its peak, times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate(group["peak"]) * group["scale"]


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The rates of the moment, unscaled, by the names under which they are logged."""
    names = {False: "train/lr", True: "train/muon_lr"}
    return {names[group.get("use_muon", False)]: group["lr"] / group["scale"] for group in optimizer.param_groups}
