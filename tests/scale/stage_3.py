"""A checkpoint of a large run at ZeRO stage 3, without the run: what each rank would say of itself, merged."""

import json
import math

import numpy as np

from trainer.checkpoint.complete import COMPLETE, STATE, describe
from trainer.checkpoint.data_file import DataFile
from trainer.checkpoint.index import FILE, FP32_BYTES, INDEX, LONGS, WORDS, IndexNames, encode
from trainer.checkpoint.merge import AT_ONCE, compress
from trainer.checkpoint.state import FORMAT
from trainer.config import Model
from trainer.model.partition import Partition
from trainer.model.region import Region
from trainer.model.sizes import decoder_shapes

KINDS = ("fp32", "exp_avg", "exp_avg_sq")
LLAMA_70B = decoder_shapes(
    Model(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
    )
)


class LargeRun:
    """The layout of a run: DeepSpeed cuts what a tensor-parallel rank holds evenly, and pads the end."""

    def __init__(self, ranks, tensor=1, shapes=LLAMA_70B):
        self.ranks, self.tensor, self.shapes = ranks, tensor, shapes
        partitions = [Partition(shapes, rank, tensor, kv_heads=8) for rank in range(tensor)]
        self.cuts = [[partition.slice_of(name) for name in shapes] for partition in partitions]
        self.slices = list(dict.fromkeys(cut for cuts in self.cuts for cut in cuts))
        number = {cut: place for place, cut in enumerate(self.slices)}
        self.places = [[number[cut] for cut in cuts] for cuts in self.cuts]
        self.sizes = np.array(
            [
                [Region.of_slice(shape, cut).count for shape, cut in zip(shapes.values(), cuts, strict=True)]
                for cuts in self.cuts
            ]
        )

    def ranges_of(self, ranks):
        """First elements and ends of what each of `ranks` writes of each parameter: a row for each rank."""
        data_rank, tensor_rank = np.divmod(np.asarray(ranks)[:, None], self.tensor)
        whole = self.sizes[tensor_rank[:, 0]]
        size = -(-whole // (self.ranks // self.tensor))
        start = np.minimum(whole, size * data_rank)
        stop = np.minimum(whole, start + size)
        shared = np.array([cut is None for cut in self.cuts[0]])  # by all tensor-parallel peers
        low = start + (stop - start) * tensor_rank // self.tensor
        high = start + (stop - start) * (tensor_rank + 1) // self.tensor
        return np.where(shared, low, start), np.where(shared, high, stop)

    def regions_of(self, rank):
        """What a rank loads, by parameter: all that its peers hold as well, too."""
        data_rank, tensor_rank = divmod(rank, self.tensor)
        found = {}
        for (name, shape), cut, whole in zip(
            self.shapes.items(), self.cuts[tensor_rank], self.sizes[tensor_rank].tolist(), strict=True
        ):
            size = -(-whole // (self.ranks // self.tensor))
            start = min(whole, size * data_rank)
            if start < whole:
                found[name] = Region(shape, cut, start, min(whole, start + size))
        return found

    def rows_of(self, ranks):
        """The rows of the ranks' own indexes, one after the other; kinds of a parameter follow each other in a file."""
        start, stop = self.ranges_of(ranks)
        row, held = np.nonzero(start < stop)
        row, held = row.repeat(len(KINDS)), held.repeat(len(KINDS))
        sizes = (stop - start)[row, held]
        ends = np.cumsum(sizes)
        before = np.append(0, ends)[np.searchsorted(row, row)]  # what the ranks before hold
        columns = {
            "parameter": held,
            "kind": np.tile(np.arange(len(KINDS)), len(held) // len(KINDS)),
            "slice": np.array(self.places)[np.asarray(ranks)[row] % self.tensor, held],
            "part": np.asarray(ranks)[row],
            "step": np.zeros(len(held)),
            "count": np.ones(len(held)),
            "start": start[row, held],
            "size": sizes,
            "offset": ends - sizes - before,
        }
        kinds = dict.fromkeys(WORDS, np.int32) | dict.fromkeys(LONGS, np.int64)
        return {name: np.asarray(column).astype(kinds[name]) for name, column in columns.items()}

    def elements_of(self, ranks):
        """Number of elements that each of `ranks` writes."""
        start, stop = self.ranges_of(ranks)
        return (stop - start).sum(axis=1) * len(KINDS)

    def own_index(self, rank):
        """What a rank says of itself."""
        return encode(IndexNames(self.shapes, KINDS, tuple(self.slices), ()), self.rows_of([rank]))

    @property
    def files(self):
        """The name of each rank's file."""
        return [DataFile(rank, (0,)).name for rank in range(self.ranks)]

    def index(self):
        """The index of the checkpoint: all ranks' rows made into runs by the writer's own code.

        It is what merge_indexes makes of every own_index, which takes three times as long.
        """
        batches = [self.rows_of(range(at, min(at + AT_ONCE, self.ranks))) for at in range(0, self.ranks, AT_ONCE)]
        some = [compress(batch) for batch in batches]
        rows = compress({name: np.concatenate([columns[name] for columns in some]) for name in WORDS + LONGS})
        names = IndexNames(self.shapes, KINDS, tuple(self.slices), tuple(self.files))
        return encode(names, {**rows, FILE: np.arange(self.ranks, dtype=np.int32)})

    def write(self, folder, with_data=()):
        """A folder as rank 0 leaves it, but for the tensors: files of zeros for the ranks in `with_data` only."""
        folder.mkdir(parents=True)
        (folder / INDEX).write_bytes(self.index())
        (folder / STATE).write_text(json.dumps({"format": FORMAT}))
        files = {name: describe(folder / name) for name in (INDEX, STATE)}
        for rank, elements in enumerate(self.elements_of(range(self.ranks)).tolist()):
            file = DataFile(rank, (elements,))
            size = len(file.header()) + -(-file.elements[0] * FP32_BYTES // 4096) * 4096
            files[file.name] = {"bytes": size, "xxh3_128": "0" * 32}
            if rank in with_data:
                (folder / file.name).write_bytes(file.header())
                with (folder / file.name).open("r+b") as zeros:
                    zeros.truncate(size)
        (folder / COMPLETE).write_text(json.dumps({"files": files}))
        return folder

    @property
    def pieces(self):
        """How many ranges all ranks write."""
        return len(self.shapes) * len(KINDS) * self.ranks

    @property
    def parameters(self):
        """Elements of the model."""
        return sum(map(math.prod, self.shapes.values()))
