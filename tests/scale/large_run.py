"""A checkpoint of a large run with ZeRO, without the run: what each rank would say of itself, merged."""

import json
import math
from itertools import accumulate

import numpy as np

from trainer.checkpoint.complete import COMPLETE, STATE, Hashed, StoredFile, describe, hash_range
from trainer.checkpoint.data_file import PAGE, DataFile, group_of
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
    """The layout of a run: DeepSpeed cuts what a tensor-parallel rank holds evenly, and pads the end.

    At stage 3 that is each parameter, at stages 1 and 2 (`flat`) all of them end to end.
    """

    def __init__(self, ranks, tensor=1, shapes=LLAMA_70B, *, writers=0, flat=False):
        self.ranks, self.tensor, self.shapes, self.flat = ranks, tensor, shapes, flat
        self.groups = sorted({group_of(rank, ranks, writers) for rank in range(ranks)}, key=lambda group: group.start)
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
        shared = np.array([cut is None for cut in self.cuts[0]])  # by all tensor-parallel peers
        if self.flat:
            first, size = (each[tensor_rank[:, 0]] for each in self._flat_places())
            start = np.clip(size * data_rank - first, 0, whole)
            stop = np.clip(size * (data_rank + 1) - first, 0, whole)
            low = np.maximum(start, whole * tensor_rank // self.tensor)
            high = np.maximum(low, np.minimum(stop, whole * (tensor_rank + 1) // self.tensor))
        else:
            size = -(-whole // (self.ranks // self.tensor))
            start = np.minimum(whole, size * data_rank)
            stop = np.minimum(whole, start + size)
            low = start + (stop - start) * tensor_rank // self.tensor
            high = start + (stop - start) * (tensor_rank + 1) // self.tensor
        return np.where(shared, low, start), np.where(shared, high, stop)

    def _flat_places(self):
        """By tensor-parallel rank and parameter: where it begins in its flat buffer, and what of that each rank has.

        Matrices are in one buffer and vectors in another, which DeepSpeed pads to twice the number of ranks.
        """
        first, size = np.zeros_like(self.sizes), np.zeros_like(self.sizes)
        is_matrix = np.array([len(shape) > 1 for shape in self.shapes.values()])
        data_ranks = self.ranks // self.tensor
        for chosen in (is_matrix, ~is_matrix):
            ends = self.sizes[:, chosen].cumsum(axis=1)
            first[:, chosen] = ends - self.sizes[:, chosen]
            size[:, chosen] = -(-ends[:, -1:] // (2 * data_ranks)) * 2
        return first, size

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
        return [DataFile(group.start, ()).name for group in self.groups for _ in group]

    def index(self):
        """The index of the checkpoint: all ranks' rows made into runs by the writer's own code.

        It is what merge_indexes makes of every own_index, which takes three times as long.
        """
        batches = [self.rows_of(range(at, min(at + AT_ONCE, self.ranks))) for at in range(0, self.ranks, AT_ONCE)]
        some = [compress(batch) for batch in batches]
        rows = compress({name: np.concatenate([columns[name] for columns in some]) for name in WORDS + LONGS})
        names = IndexNames(self.shapes, KINDS, tuple(self.slices), tuple(dict.fromkeys(self.files)))
        files = np.arange(len(self.groups)).repeat([len(group) for group in self.groups])
        return encode(names, {**rows, FILE: files.astype(np.int32)})

    def write(self, folder, with_data=(), state=None):
        """A folder as rank 0 leaves it, but for the tensors: files of zeros for the ranks in `with_data` only."""
        folder.mkdir(parents=True)
        (folder / INDEX).write_bytes(self.index())
        (folder / STATE).write_text(json.dumps({"format": FORMAT, **(state or {})}))
        files = {name: describe(folder / name) for name in (INDEX, STATE)}
        elements = self.elements_of(range(self.ranks)).tolist()
        for group in self.groups:
            file = DataFile(group.start, tuple(elements[rank] for rank in group))
            header = file.header()
            sizes = [-(-count * FP32_BYTES // PAGE) * PAGE for count in file.elements]
            sizes[0] += len(header)
            hashes = ["0" * 32] * len(group)
            if not set(group).isdisjoint(with_data):
                (folder / file.name).write_bytes(header.ljust(sum(sizes), b"\0"))
                starts = [end - size for end, size in zip(accumulate(sizes), sizes, strict=True)]
                hashes = [hash_range(folder / file.name, *piece) for piece in zip(starts, sizes, strict=True)]
            files[file.name] = StoredFile.of_parts([Hashed(*part) for part in zip(sizes, hashes, strict=True)])
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
