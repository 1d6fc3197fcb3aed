"""What a rank of a run holds and takes through the model: the sizes that all of a plan follows from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from trainer.config import Pretrain
from trainer.config.batches import data_ranks_of, rounds, settle_micro_batch
from trainer.config.plain_values import with_values
from trainer.config.training import BUCKET as BUCKET
from trainer.config.training import bucket_elements
from trainer.model.partition import Partition
from trainer.model.sizes import Shapes, chunk_tokens, count, decoder_shapes
from trainer.rules.compiled import settle_compile

# DeepSpeed's settings, in elements, unless deepspeed.zero_optimization has others. Stage 3 keeps smaller parameters
# whole between the steps (stage3_param_persistence_threshold), and larger ones from forward to backward if less than
# this is used in between (stage3_max_reuse_distance).
PERSISTENT = 100_000
REUSE_DISTANCE = 1_000_000_000
ALIGNMENT = 2  # times ranks: what stages 1 and 2 pad a group of parameters to


@dataclass(frozen=True)
class Layout:
    """A configuration on a number of ranks; sizes in elements and tokens of a rank that holds the most."""

    config: Pretrain
    world_size: int
    held: Shapes  # of a tensor-parallel rank, before ZeRO cuts further
    cuda: bool = False  # what the ranks' devices are

    @property
    def ranks(self) -> int:
        """Ranks that ZeRO shards among."""
        return self.world_size // self.config.parallel.tensor

    @property
    def data_ranks(self) -> int:
        """Ranks that take different data."""
        return data_ranks_of(self.config, self.world_size)

    @cached_property
    def micro_batch(self) -> int:
        """Sequences that a rank takes through the model at once."""
        return settle_micro_batch(self.config, self.world_size)

    @cached_property
    def micro_steps(self) -> int:
        """Micro-batches of a rank in an optimiser step."""
        return rounds(self.config.train.batch_size // self.micro_batch, self.data_ranks)

    @property
    def bf16(self) -> bool:
        """Whether activations are in bf16."""
        return self.config.train.in_bf16

    @property
    def width(self) -> int:
        """Bytes of an activation."""
        return 2 if self.bf16 else 4

    @property
    def weight_width(self) -> int:
        """Bytes of a working weight, and of a gradient when it is exchanged."""
        return 2 if self.config.has_bf16_weights else 4

    @property
    def plain_head(self) -> bool:
        """Whether the loss finds the head's matrix whole, and needs no second pass for its gradient."""
        parallel = self.config.parallel
        return parallel.zero_stage < 3 and parallel.tensor == 1

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch on a rank."""
        return self.micro_batch * self.config.data.sequence_length // self.config.parallel.sequence

    @property
    def activation(self) -> int:
        """Bytes of the hidden states of a micro-batch."""
        return self.tokens * self.config.model.hidden_size * self.width

    @cached_property
    def elements(self) -> int:
        """Parameters that a rank holds before ZeRO cuts."""
        return count(self.held)

    @cached_property
    def share(self) -> int:
        """Elements of a rank's partition under ZeRO."""
        if self.config.parallel.zero_stage == 3:
            return sum(padded(math.prod(shape), self.ranks) // self.ranks for shape in self.held.values())
        groups = ([math.prod(shape) for shape in self.held.values() if (len(shape) == 1) == one] for one in (0, 1))
        return sum(padded(sum(sizes), self.ranks * ALIGNMENT) // self.ranks for sizes in groups)

    @property
    def loss_chunk(self) -> int:
        """Tokens whose logits the loss holds at once."""
        chunk = self.config.model.loss_chunk
        assert chunk is not None  # layout_of
        return chunk

    @property
    def bucket(self) -> int:
        """Elements whose gradients are reduced together, at stages 1 to 3."""
        return self.zero("reduce_bucket_size", bucket_elements(self.elements, cuda=self.cuda))

    def zero(self, key: str, default: int) -> int:
        """A number of deepspeed.zero_optimization, or DeepSpeed's own."""
        return int(self.config.deepspeed.get("zero_optimization", {}).get(key, default))

    def rows_of(self, name: str) -> int:
        """Outputs of a projection of the first block on this rank."""
        return self.held[f"model.layers.0.{name}.weight"][0]


def layout_of(config: Pretrain, world_size: int, *, cuda: bool = False) -> Layout:
    """The layout of a configuration that passed the checks, its vocabulary known; what it leaves open is settled."""
    model = config.model
    settled = {
        "train.compile": settle_compile(config, can_compile=cuda),
        "model.loss_chunk": chunk_tokens(model.loss_chunk, model.vocab_size or 0, cuda=cuda),
    }
    config = with_values(config, settled)
    partition = Partition(decoder_shapes(config.model), 0, config.parallel.tensor, config.model.num_key_value_heads)
    return Layout(config, world_size, {name: partition.held_shape(name) for name in partition.shapes}, cuda)


def padded(size: int, multiple: int) -> int:
    """`size`, rounded up to a multiple."""
    return math.ceil(size / multiple) * multiple
