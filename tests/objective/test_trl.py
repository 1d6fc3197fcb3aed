"""objective=dpo and orpo are TRL's: losses, gradients and metrics of a batch, in full runs where TRL is installed.

tests/peers/trl.sh installs it into an environment of its own.
"""

import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.objective.pair_rows import draw_pairs, rows_of
from tests.pairs import make_base
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import Export, ObjectiveSettings
from trainer.evaluate.folder_model import load_folder
from trainer.objective.causal import Causal
from trainer.objective.dpo import Dpo
from trainer.objective.orpo import Orpo
from trainer.verbs.export import main

PEER = Path(tempfile.gettempdir()) / "banyan-peers" / "trl" / "bin" / "python"
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not PEER.exists(), reason="TRL isn't installed: tests/peers/trl.sh"),
]
CASES = {  # ours, and TRL's words for it
    "sigmoid": ({"beta": 0.3}, {"beta": 0.3}),
    "ipo": ({"beta": 0.3, "loss": "ipo"}, {"beta": 0.3, "loss_type": ["ipo"]}),
    "per token": ({"beta": 3.0, "length_normalised": True}, {"beta": 3.0, "loss_type": ["sigmoid_norm"]}),
    "orpo": ({"name": "orpo", "beta": 0.3}, {"beta": 0.3}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A policy and a reference as Hugging Face folders."""
    folder = tmp_path_factory.mktemp("trl")
    text, _ = make_base(folder)
    other = small_config(text, folder / "other", train__steps=3, seed=1)
    assert run_ranks(pretrain, other, 1) == [0]
    for name in ("base", "other"):
        settings = Export()
        settings.run.dir, settings.export.output = str(folder / name), str(folder / f"{name}_hf")
        assert main(settings) == 0
    return folder / "base_hf", folder / "other_hf"


def test_losses_gradients_and_metrics_are_trl_s(folders):
    import torch

    policy_folder, reference_folder = folders
    pairs = draw_pairs(6)
    asked = {
        "policy": str(policy_folder),
        "reference": str(reference_folder),
        "pairs": [vars(pair) for pair in pairs],
        "cases": {name: theirs for name, (_, theirs) in CASES.items()},
    }
    answer = subprocess.run(
        [PEER, Path(__file__).with_name("trl_losses.py")], input=json.dumps(asked), capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    theirs = json.loads(answer.stdout.splitlines()[-1])
    cpu, rows = torch.device("cpu"), [pairs[:2], pairs[2:3], pairs[3:]]
    reference = load_folder(reference_folder, cpu)
    with torch.no_grad():
        zero = Dpo(ObjectiveSettings(), Causal(64, None))
        found = zero.losses(reference, zero.to_batch(rows_of([[pair] for pair in pairs], 64), positions=np.arange(6)))
    logps = {
        number: (found.measures["logps/chosen"][number].item(), found.measures["logps/rejected"][number].item())
        for number in range(6)
    }
    for name, (ours, _) in CASES.items():
        policy = load_folder(policy_folder, cpu).train()
        objective = (Orpo if name == "orpo" else Dpo)(ObjectiveSettings(**ours), Causal(64, None))
        losses = objective.losses(policy, objective.to_batch(rows_of(rows, 64, logps), positions=np.arange(3)))
        loss = losses.rows.sum() / 6
        loss.backward()
        assert loss.item() == pytest.approx(theirs[name]["loss"], rel=1e-5), name
        for key, parameter in policy.named_parameters():
            assert parameter.grad.norm().item() == pytest.approx(theirs[name]["gradients"][key], rel=1e-4), (name, key)
        for key, value in theirs[name]["metrics"].items():
            if key in losses.measures and not (name == "ipo" and key.startswith("rewards")):
                assert losses.measures[key].sum().item() / 6 == pytest.approx(value, rel=1e-4, abs=1e-6), (name, key)
        assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"} <= set(
            theirs[name]["metrics"]
        )
