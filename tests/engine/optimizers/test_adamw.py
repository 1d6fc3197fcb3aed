import copy
import subprocess
import sys

import torch

from trainer.engine.optimizers.adamw import AdamW

GROUPS = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95), "fused": True}


def train(optimizer, model, steps):
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()


def test_adamw_is_torch_s_to_the_bit_and_its_state_fits():
    torch.manual_seed(0)
    theirs = torch.nn.Linear(8, 8)
    ours = copy.deepcopy(theirs)
    reference, optimizer = torch.optim.AdamW(theirs.parameters(), **GROUPS), AdamW(ours.parameters(), **GROUPS)
    train(reference, theirs, 3)
    train(optimizer, ours, 3)
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    train(reference, theirs, 2)
    train(optimizer, ours, 2)
    assert torch.equal(ours.weight, theirs.weight)
    assert not any(value.requires_grad for state in optimizer.state.values() for value in state.values())


def test_it_does_without_torch_s_compiler():
    program = "import sys, torch; from trainer.engine.optimizers.adamw import AdamW\n"
    program += "layer = torch.nn.Linear(2, 2); optimizer = AdamW(layer.parameters(), fused=True)\n"
    program += (
        "layer(torch.ones(2)).sum().backward(); optimizer.step(); optimizer.zero_grad(); optimizer.state_dict()\n"
    )
    program += "sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
