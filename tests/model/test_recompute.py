"""Activation checkpointing saves memory and changes nothing else."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from tests.model.test_decoder import built, small, some_tokens

MODES = ("none", "full", "selective")


class Storages(TorchDispatchMode):
    """Watches every tensor that is made, to tell how many bytes of them are still there."""

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        results = function(*arguments, **(options or {}))
        for result in results if isinstance(results, tuple | list) else (results,):
            if isinstance(result, torch.Tensor):
                storage = result.untyped_storage()
                self.sizes[StorageWeakRef(storage)] = storage.nbytes()
        return results

    def alive(self):
        return sum(size for storage, size in self.sizes.items() if not storage.expired())


def train_once(mode, document_ids=None, **changes):
    """Loss, gradients, and bytes that forward left for backward."""
    model, tokens = built(small(**changes)), some_tokens()
    model.set_activation_checkpointing(mode)
    torch.manual_seed(3)
    with Storages() as storages:
        loss = model(tokens, tokens, document_ids).sum()
        kept = storages.alive()
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()], kept


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_no_loss_and_no_gradient_changes_and_memory_falls(dropout, masks):
    document_ids = (some_tokens() < 10).long().cumsum(dim=1) if masks else None
    results = {mode: train_once(mode, document_ids, dropout=dropout) for mode in MODES}
    for mode in MODES:
        torch.testing.assert_close(results[mode][:2], results["none"][:2], atol=0, rtol=0)
    kept = {mode: result[2] for mode, result in results.items()}
    assert kept["full"] < 0.8 * kept["selective"] < 0.8 * 0.8 * kept["none"]


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="none, full or selective"):
        built(small()).set_activation_checkpointing("half")
