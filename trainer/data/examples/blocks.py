"""Stored examples → blocks of a shard: rendered, packed, and those that can't be learnt from counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import xxhash

from trainer.data.examples.augment import Augmentation
from trainer.data.examples.faults import NO_TARGET, ExampleFault
from trainer.data.examples.read import MEND
from trainer.data.examples.render import Rendered, Renderer
from trainer.data.tokens.block_members import LABEL, TAGS
from trainer.data.tokens.blocks import Block, Document
from trainer.errors import InputError


@dataclass
class ExamplePacker:
    """Renders examples and packs them into blocks of about `block_tokens`. `sources` are the names of source files.

    With `refuses`, one that can't be rendered is refused by name. `rejected` counts the others by reason; `first` has
    the place of the first of each.
    """

    renderer: Renderer
    block_tokens: int
    sources: tuple[str, ...]
    refuses: bool
    augmentation: Augmentation | None = None
    rejected: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def pack(self, documents: Iterable[Document], contents: Iterable[list[bytes]]) -> Iterator[Block]:
        """The examples as blocks, each closed before it would exceed `block_tokens`."""
        held: list[tuple[Document, Rendered]] = []
        size = 0
        for document, content in self._augmented(documents, contents):
            rendered = self._render(document, content)
            if rendered is None:
                continue
            if held and size + len(rendered.ids) > self.block_tokens:
                yield self._block(held)
                held, size = [], 0
            held.append((document, rendered))
            size += len(rendered.ids)
        if held:
            yield self._block(held)

    def _augmented(
        self, documents: Iterable[Document], contents: Iterable[list[bytes]]
    ) -> Iterator[tuple[Document, bytes]]:
        """Each example, and after it its changed copies."""
        for document, content in zip(documents, contents, strict=True):
            whole = content.pop()
            yield document, whole
            for copy in self.augmentation.copies(whole) if self.augmentation else ():
                yield replace(document, bytes=len(copy), xxh3=xxhash.xxh3_128_hexdigest(copy)), copy

    def _render(self, document: Document, content: bytes) -> Rendered | None:
        try:
            return self.renderer.render(content)
        except ExampleFault as fault:
            place = f"{self.sources[document.source]}, record {document.record + 1}: {fault}"
            if self.refuses and fault.reason != NO_TARGET:
                raise InputError(f"{place}; {MEND}.") from fault
            self.rejected[fault.reason] += 1
            self.first.setdefault(fault.reason, place)
            return None

    def _block(self, held: list[tuple[Document, Rendered]]) -> Block:
        whole = all(rendered.whole for _, rendered in held)
        return Block(
            tokens=np.concatenate([rendered.ids for _, rendered in held]).astype(self.renderer.tokenizer.dtype),
            lengths=np.array([len(rendered.ids) for _, rendered in held], np.uint32),
            documents=[document for document, _ in held],
            targets=None if whole else np.concatenate([rendered.targets for _, rendered in held]),
            members=_members([rendered for _, rendered in held]),
        )


def _members(rendered: list[Rendered]) -> dict[str, np.ndarray]:
    """What a block holds besides tokens and targets: the same of all its examples."""
    sides = [each.sides for each in rendered if each.sides is not None]
    labels = [each.label + 1 for each in rendered if each.label is not None]
    tags = [each.tags for each in rendered if each.tags is not None]
    members: dict[str, np.ndarray] = {}
    if sides:
        members["sides"] = np.array(sides, np.uint32)[:, None]
    if labels:
        members[LABEL] = np.array(labels, np.uint16)[:, None]
    if tags:
        members[TAGS] = np.concatenate(tags)[:, None]
    return members
