"""One rank of thousands, alone in its process: `banyan pretrain` up to its first step, and what it did until then.

Collectives are torch's fake ones, which return at once what the rank itself gave; what rank 0 told the others is noted
when this process plays rank 0, and heard when it plays another. Beside each group of fakes a real one of gloo is made,
which connects nobody before it is used, so that the store sees what it would see of this rank.
"""

import json
import os
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed
from torch.testing._internal.distributed import fake_pg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.scale.opened import files_opened


class CountingStore(torch.distributed.Store):
    """A store of this process's own, which counts what it is asked for."""

    def __init__(self):
        super().__init__()
        self._inner, self.calls, self.bytes = torch.distributed.HashStore(), Counter(), 0

    def set(self, key, value):
        self.calls["set"] += 1
        self.bytes += len(key) + len(value)
        return self._inner.set(key, value)

    def get(self, key):
        self.calls["get"] += 1
        return self._inner.get(key)

    def add(self, key, amount):
        self.calls["add"] += 1
        return self._inner.add(key, amount)

    def check(self, keys):
        self.calls["check"] += 1
        return self._inner.check(keys)

    def wait(self, *given):
        self.calls["wait"] += 1
        return self._inner.wait(*given)


class Collectives(TorchDispatchMode):
    """Counts collectives by name, and notes the largest tensor that any passes on."""

    def __init__(self):
        super().__init__()
        self.calls, self.largest = Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.calls[func._schema.name.removeprefix("c10d::").strip("_")] += 1
            sizes = [each.numel() for each in tree_leaves((args, kwargs)) if torch.is_tensor(each)]
            self.largest = max([self.largest, *sizes])
        return func(*args, **(kwargs or {}))


def start(given):
    """Plays `rank` of `ranks` with a configuration; leaves the counts in counts-RANK.json in `notes`."""
    config, rank, ranks, notes = given
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank % 8), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE="8", TORCH_GLOO_LAZY_INIT="1"
    )
    from trainer.data.tokens import loader
    from trainer.engine import loop
    from trainer.engine.deepspeed import zero
    from trainer.model import normal_tiles
    from trainer.ranks import mesh
    from trainer.verbs import pretrain as verb

    # Rows looked up and read ahead: of so small a dataset, thousands of ranks would see thousands of epochs in them.
    loader.PLACED_ROWS, loader.GATHERED_TOKENS = 32, 32 * config.data.sequence_length
    assert fake_pg.FakeStore  # importing it made the backend known
    counts = {"built": 0, "drawn": 0, "groups": 0, "safetensors": 0}
    store = CountingStore()
    _make_fake_groups(counts, store)
    _hear_rank_0(Path(notes) / "told.pt", is_speaker=rank == 0)
    mesh.open_store = lambda environment, timeout: store
    construct, draw_tile = zero.construct, normal_tiles.draw_tile

    def build(config, mesh, model, partition):
        construct(config, mesh, model, partition)
        counts["built"] = sum(getattr(each, "ds_numel", each.numel()) for each in model.parameters())
        counts["held"] = sum(getattr(each, "ds_tensor", each).numel() for each in model.parameters())

    def draw(key, tiling, std):
        counts["drawn"] += tiling.height * tiling.width
        return draw_tile(key, tiling, std)

    def first_batch(trainer, stops):
        list(next(trainer.steps).batches)
        counts["files"] = [*run, *data]
        counts["opened"] = len(counts["files"]) + counts["safetensors"]
        return "step"

    zero.construct, normal_tiles.draw_tile, loop.Trainer.run = build, draw, first_batch
    _count_safetensors(counts)
    began, cpu = time.perf_counter(), time.process_time()
    with files_opened(config.run.dir) as run, files_opened(config.data.path) as data, Collectives() as collectives:
        code = verb.main(config)
    counts |= {
        "collectives": dict(collectives.calls),
        "largest": collectives.largest,
        "store": dict(store.calls),
        "store_bytes": store.bytes,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }
    (Path(notes) / f"counts-{rank}.json").write_text(json.dumps(counts))
    return code


def _make_fake_groups(counts, store):
    """Has every group be a fake one, with a real one of gloo beside it."""
    initialize, new_group = torch.distributed.init_process_group, torch.distributed.new_group

    def make_world(backend, **options):
        initialize("fake", store=store, rank=options["rank"], world_size=options["world_size"])
        new_group(backend="gloo")

    def make(ranks=None, backend=None, **options):
        counts["groups"] += 1
        new_group(ranks, backend="gloo", **options)
        return new_group(ranks, backend="fake", **options)

    torch.distributed.init_process_group, torch.distributed.new_group = make_world, make


def _hear_rank_0(path, *, is_speaker):
    """Notes what rank 0 broadcasts, or has other ranks hear it."""
    broadcast = torch.distributed.broadcast
    told = [] if is_speaker else iter(torch.load(path))

    def speak(tensor, *given, **options):
        told.append(tensor.clone())
        torch.save(told, path)
        return broadcast(tensor, *given, **options)

    def hear(tensor, *given, **options):
        broadcast(tensor, *given, **options)
        tensor.copy_(next(told))

    torch.distributed.broadcast = speak if is_speaker else hear


def _count_safetensors(counts):
    """Files that safetensors opens, which Python doesn't hear of."""
    import safetensors

    safe_open = safetensors.safe_open

    def count(*given, **options):
        counts["safetensors"] += 1
        return safe_open(*given, **options)

    safetensors.safe_open = count
