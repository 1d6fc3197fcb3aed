"""Hugging Face models that aren't causal: masked, encoder–decoder, classifiers. The module inside is its own.

Rows are padded with tokens of no document: where `document_ids` isn't 0 there is nothing, whatever token stands there.
It becomes the model's own padding token, by which some architectures count positions or find the last token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.config import Model
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.hugging_face.heads import CLASSIFY, MASKED, SEQ2SEQ, TAG
from trainer.model.loss import IGNORED, row_losses
from trainer.model.sizes import chunk_tokens


class _Headed(CausalLM):
    """What the models below have in common."""

    def _padded(self, tokens: Tensor, document_ids: Tensor | None) -> dict[str, Tensor]:
        """`input_ids`, and the attention mask where rows are padded; (rows, time) both. The first document counts."""
        if document_ids is None:
            return {"input_ids": tokens}
        there = document_ids == 0
        pad = self.config.get_text_config().pad_token_id
        filled = tokens if pad is None else tokens.where(there, pad)
        return {"input_ids": filled, "attention_mask": there.long()}

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        z_loss = self.settings.z_loss if self.training else 0.0
        chunk = chunk_tokens(self.settings.loss_chunk, logits.shape[-1], cuda=logits.is_cuda)
        return row_losses(logits, targets, nn.Identity(), chunk=chunk, z_loss=z_loss, measure=self.measure)


class MaskedLM(_Headed):
    """A bidirectional model that fills in masked tokens: targets stand where their inputs do."""

    def forward(  # type: ignore[override]
        self, tokens: Tensor, targets: Tensor | None = None, document_ids: Tensor | None = None
    ) -> Tensor:
        """Each row's summed loss where there are targets, else logits (rows, time, vocabulary); fp32 both."""
        logits = self.inner(**self._padded(tokens, document_ids)).logits
        return logits.float() if targets is None else self._losses(logits, targets)


class SourceCache:
    """What generation remembers of a source and the tokens so far: the encoder's states are made once."""

    def __init__(self) -> None:
        self.source: Tensor | None = None
        self.encoded: Tensor | None = None
        self.tokens: Tensor | None = None

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows of the batch but these."""
        for name in ("source", "encoded", "tokens"):
            held = getattr(self, name)
            setattr(self, name, None if held is None else held[rows])


class Seq2SeqLM(_Headed):
    """An encoder–decoder: tokens are the source, targets what the decoder learns to write."""

    def forward(  # type: ignore[override]
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: SourceCache | None = None,
    ) -> Tensor:
        """Each row's summed loss where there are targets; fp32. Else logits of what follows, with a cache.

        tokens: (rows, source); targets: (rows, length), IGNORED where there is none. The first tokens that a cache gets
        are the source, all later ones have been written.
        """
        if cache is not None:
            return self._next(tokens, cache)
        if targets is None:
            raise ValueError("an encoder–decoder has logits for targets, or with a cache")
        written = self.shifted(targets)
        logits = self.inner(**self._padded(tokens, document_ids), decoder_input_ids=written).logits
        return self._losses(logits, targets)

    def shifted(self, targets: Tensor) -> Tensor:
        """What the decoder is fed: the start token, then the targets but for the last; (rows, length)."""
        config = self.config.get_text_config(decoder=True)
        pad = config.pad_token_id
        fed = targets.where(targets != IGNORED, 0 if pad is None else pad)
        return torch.cat((torch.full_like(fed[:, :1], self.start_token), fed[:, :-1]), dim=1)

    @property
    def start_token(self) -> int:
        """What a target begins after."""
        config = self.config
        given = (getattr(config, key, None) for key in ("decoder_start_token_id", "pad_token_id", "bos_token_id"))
        return int(next((token for token in given if token is not None), 0))

    def new_cache(self, capacity: int) -> SourceCache:  # type: ignore[override]
        """A cache for generation."""
        return SourceCache()

    def _next(self, tokens: Tensor, cache: SourceCache) -> Tensor:
        if cache.source is None:
            cache.source = tokens
            cache.encoded = self.inner.get_encoder()(input_ids=tokens).last_hidden_state
            cache.tokens = torch.full_like(tokens[:, :1], self.start_token)
        else:
            assert cache.tokens is not None
            cache.tokens = torch.cat((cache.tokens, tokens), dim=1)
        mask = torch.ones_like(cache.source)
        logits = self.inner(
            encoder_outputs=(cache.encoded,), attention_mask=mask, decoder_input_ids=cache.tokens
        ).logits
        return logits[:, -1:].float()


class _Classifier(_Headed):
    """A head over whole texts, or over each token (`head=tag`)."""

    def forward(self, tokens: Tensor, document_ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Logits of the labels: (rows, labels), or of each token (rows, time, labels); fp32."""
        logits: Tensor = self.inner(**self._padded(tokens, document_ids)).logits
        return logits.float()


CLASSES: dict[str, type[CausalLM]] = {
    MASKED: MaskedLM,
    SEQ2SEQ: Seq2SeqLM,
    CLASSIFY: _Classifier,
    TAG: _Classifier,
}


def wrap(settings: Model) -> CausalLM:
    """The Hugging Face model of model.path under the signature of what it is asked for (model.head)."""
    return CLASSES.get(settings.head, CausalLM)(settings)
