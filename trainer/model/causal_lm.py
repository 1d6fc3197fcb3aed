"""Any causal language model of transformers' under the signature of our own: tokens and targets → losses of rows.

The module inside is transformers' as it stands; parameters have its names. Logits of a whole micro-batch exist at once
(in the precision of the run), since what a model does between its last hidden state and them is its own business; only
their fp32 copy and the softmax are made in chunks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.config import Model
from trainer.errors import ConfigError, InputError
from trainer.model.attention import document_positions
from trainer.model.loss import Measure, logit_losses, row_losses


class TokenCache:
    """What generation remembers: the tokens so far. Each step runs them all again, which any architecture allows."""

    def __init__(self) -> None:
        self._tokens: Tensor | None = None

    def append(self, tokens: Tensor) -> Tensor:
        """Adds (batch, time) tokens and returns all so far."""
        self._tokens = tokens if self._tokens is None else torch.cat((self._tokens, tokens), dim=1)
        return self._tokens


class CausalLM(nn.Module):
    """A model of transformers', built from the config.json of `settings.path`; weights are to be filled in."""

    tally = None  # routing isn't counted

    def __init__(self, settings: Model) -> None:
        super().__init__()
        self.settings = settings
        self.inner = build_inner(settings)
        self.config = self.inner.config  # AutoTP reads the number of heads there
        self.draws = draws(self.inner)
        self.measure: Measure = logit_losses

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: TokenCache | None = None,
    ) -> Tensor:
        """Each row's summed loss where there are targets, else logits; fp32 both. As Transformer.forward.

        Documents are told to transformers by positions that restart, from which it makes its masks.
        """
        if cache is not None:
            tokens = cache.append(tokens)
        documents = {} if document_ids is None else {"position_ids": document_positions(document_ids)}
        logits = self.inner(input_ids=tokens, **documents).logits
        if targets is None:
            return logits[:, -1:].float() if cache is not None else logits.float()
        z_loss = self.settings.z_loss if self.training else 0.0
        return row_losses(
            logits, targets, nn.Identity(), chunk=self.settings.loss_chunk, z_loss=z_loss, measure=self.measure
        )

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by transformers' own names: checkpoints and exports have these."""
        return self.inner.named_parameters(*arguments, **options)

    def new_cache(self, capacity: int) -> TokenCache:
        """A cache for generation; its capacity isn't bounded."""
        return TokenCache()

    def set_activation_checkpointing(self, mode: str) -> None:
        """`full` computes blocks again in backward."""
        if mode == "full":
            self.inner.gradient_checkpointing_enable({"use_reentrant": False})

    def restore_buffers(self) -> None:
        """Gives buffers, such as rotary frequencies, their values in fp32 again: DeepSpeed casts them with the weights,
        and ZeRO-3 while the model is constructed."""
        with _parameters_on_meta():
            exact = build_inner(self.settings)
        for name, buffer in exact.named_buffers():
            owner, _, leaf = name.rpartition(".")
            module = self.inner.get_submodule(owner)
            module._buffers[leaf] = buffer.to(module._buffers[leaf].device)


def read_config(settings: Model) -> Any:
    """transformers' configuration for the config.json of `settings.path`, with the overrides in it.

    ConfigError or InputError for what transformers doesn't know, or would run foreign code for.
    """
    with _transformers() as transformers:
        from huggingface_hub.errors import StrictDataclassError

        path = Path(str(settings.path)) / "config.json"
        try:
            told = json.loads(path.read_text("utf-8"))
            if "auto_map" in told:
                raise InputError(f"{path}: auto_map asks for code of its own, which isn't run; choose another model.")
            known, unused = transformers.AutoConfig.from_pretrained(
                path.parent, local_files_only=True, return_unused_kwargs=True, **settings.overrides
            )
        except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
            raise InputError(f"{path}: transformers can't use it ({_in_a_line(error)}).") from error
        for key in unused:
            raise ConfigError(f"model.overrides.{key}: {path} and transformers' {known.model_type} have no such field.")
        if type(known) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise InputError(f"{path}: {known.model_type} is no causal language model of transformers'.")
        return known


def build_inner(settings: Model) -> Any:
    """transformers' module, with parameters that mean nothing yet; fp32, on the device of the context."""
    config = read_config(settings)
    with _transformers() as transformers:
        from transformers.initialization import no_init_weights

        with no_init_weights():
            inner = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    inner.tie_weights()
    inner.config.use_cache = False
    return inner


def load_inner(settings: Model) -> Any:
    """transformers' module with the weights of the folder, fp32, on the CPU. InputError unless they are all there."""
    config = read_config(settings)
    with _transformers() as transformers:
        try:
            inner, found = transformers.AutoModelForCausalLM.from_pretrained(
                settings.path,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{settings.path}: transformers can't load it ({_in_a_line(error)}).") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found[what]:
            name = min(map(str, found[what]))
            raise InputError(
                f"{settings.path}: {name} is among transformers' {what.replace('_', ' ')}: the weights aren't those of "
                "its config.json with model.overrides; mend these, or move the weights away to train from scratch."
            )
    return inner


def write_config(settings: Model) -> dict[str, Any]:
    """The config.json that counts: the folder's, overrides in it, and the class that transformers loads it with."""
    config = read_config(settings)
    with _transformers() as transformers:
        kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__
    return json.loads(config.to_json_string(use_diff=True)) | {"architectures": [kind]}


def draws(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training: dropout, as a layer or as a rate that forward uses."""
    return any(rate > 0 for rate in _drop_rates(module).values())


def _drop_rates(module: nn.Module) -> dict[str, float]:
    rates = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            rates[name] = float(part.p)
        rates |= {f"{name}.{key}": value for key, value in vars(part).items() if "drop" in key and _is_rate(value)}
    return rates


def _is_rate(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@contextlib.contextmanager
def _transformers() -> Iterator[Any]:
    """transformers, silent but for errors. ConfigError where it isn't installed."""
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "model.path needs transformers, which isn't installed: pip install 'banyan-train[hf]'."
        ) from None
    verbosity, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


@contextlib.contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Where modules are built with their buffers, and parameters that take no memory."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _in_a_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]).rstrip(".")
