"""Lion as the paper's listing has it (Chen et al., 2023, program 1), without anything of ours."""

import torch


class PlainLion(torch.optim.Optimizer):
    def __init__(self, groups, lr, betas):
        super().__init__(groups, {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for weight in group["params"]:
                momentum = self.state[weight].setdefault("m", torch.zeros_like(weight))
                update = torch.sign(momentum * beta1 + weight.grad * (1 - beta1)) + weight * group["weight_decay"]
                weight -= update * group["lr"]
                self.state[weight]["m"] = momentum * beta2 + weight.grad * (1 - beta2)
