"""Any Hugging Face causal language model under the signature of our own: tokens and targets → losses of rows.

The module inside is Hugging Face's as it stands; parameters have its names. Logits of a whole micro-batch exist at once
(in the precision of the run), since what a model does between its last hidden state and them is its own business; only
their fp32 copy and the softmax are made in chunks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainer.config import Model
from trainer.errors import BanyanError, ConfigError, InputError
from trainer.machine.hub_name import local_folder
from trainer.machine.quiet import quiet_torchao
from trainer.model.attention import document_positions
from trainer.model.hugging_face.config_json import BUILT_IN, OVERRIDES, brief, check_doors, fields_of, read_config_json
from trainer.model.hugging_face.heads import HEADS
from trainer.model.hugging_face.safetensors_folder import find_tensors
from trainer.model.loss import FromLogits, Measure, logit_losses, row_losses, token_values
from trainer.model.sizes import chunk_tokens

# Bounds on what a config.json may ask for, above any model that is published
MOST_MODULES = 30_000
MOST_BUFFERED = 2**30  # numbers in buffers, such as tables of rotary positions
MOST_PARAMETERS = 4 * 10**12


class TokenCache:
    """What generation remembers: the tokens so far. Each step runs them all again, which any architecture allows."""

    def __init__(self) -> None:
        self._tokens: Tensor | None = None

    def extend(self, inner: Any, tokens: Tensor) -> Tensor:
        """Logits of all tokens so far, with these (batch, time) that follow: (batch, all of the time, vocab_size)."""
        self._tokens = tokens if self._tokens is None else torch.cat((self._tokens, tokens), dim=1)
        logits: Tensor = inner(input_ids=self._tokens).logits
        return logits

    def keep(self, rows: list[int]) -> None:
        """Forgets all rows of the batch but these."""
        if self._tokens is not None:
            self._tokens = self._tokens[rows]


class RowsCache(Protocol):
    """What generation remembers of rows: a TokenCache, or key_cache.py's."""

    def extend(self, inner: Any, tokens: Tensor) -> Tensor:
        """Logits up to those of the tokens (batch, time) that follow, which are the last."""
        ...


class CausalLM(nn.Module):
    """A Hugging Face model, built from the config.json of `settings.path`; weights are to be filled in."""

    tally = None  # routing isn't counted

    def __init__(self, settings: Model) -> None:
        super().__init__()
        self.settings = settings
        self.inner = build_inner(settings)
        self.config = self.inner.config  # AutoTP reads the number of heads there
        self.has_dropout = has_dropout(self.inner)
        self.measure: Measure = logit_losses

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: RowsCache | None = None,
        from_logits: FromLogits | None = None,
    ) -> Tensor:
        """Each row's summed loss where there are targets, else logits, or what `from_logits` makes. As Transformer's.

        Positions that restart at each document make transformers mask one document from another.
        """
        if cache is not None:
            return cache.extend(self.inner, tokens)[:, -1:].float()
        documents = {} if document_ids is None else {"position_ids": document_positions(document_ids)}
        logits = self.inner(input_ids=tokens, **documents).logits
        chunk = chunk_tokens(self.settings.loss_chunk, logits.shape[-1], cuda=logits.is_cuda)
        if from_logits is not None:
            return token_values(logits, nn.Identity(), from_logits, chunk=chunk)
        if targets is None:
            return logits.float()
        z_loss = self.settings.z_loss if self.training else 0.0
        return row_losses(logits, targets, nn.Identity(), chunk=chunk, z_loss=z_loss, measure=self.measure)

    def named_parameters(self, *arguments: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters by Hugging Face's own names: checkpoints and exports have these."""
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
        with parameters_on_meta():
            exact = build_inner(self.settings)
        for name, buffer in exact.named_buffers():
            owner, _, leaf = name.rpartition(".")
            module = self.inner.get_submodule(owner)
            module._buffers[leaf] = buffer.to(module._buffers[leaf].device)


def read_model_config(settings: Model) -> Any:
    """Hugging Face's configuration of a model with the head of `settings`; refusals as read_any_config's."""
    known = read_any_config(settings)
    with _transformers() as transformers:
        fits = {name for name, head in HEADS.items() if type(known) in getattr(transformers, head.mapping)}
    if settings.head not in fits:
        path = local_folder(str(settings.path)) / "config.json"
        raise InputError(f"{path}: {known.model_type} is no Hugging Face {_other_heads(settings.head, fits)}.")
    return known


def read_any_config(settings: Model) -> Any:
    """Hugging Face's configuration for the config.json of `settings.path`, with the overrides in it.

    ConfigError or InputError for what transformers doesn't know, for what is beyond any model, and for whatever would
    have it run code or read files that aren't its own.
    """
    folder, overrides = local_folder(str(settings.path)), settings.overrides
    path = folder / "config.json"
    fields = read_config_json(folder, overrides)
    with _transformers() as transformers:
        kind = fields.get("model_type")
        if kind == "mistral" and "layer_types" in fields:
            kind = "ministral"  # as AutoConfig has it
        if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
            raise InputError(f"{path}: transformers can't use it (it knows no model_type={brief(kind)}).")
        try:
            config_class = transformers.CONFIG_MAPPING[kind]
            _refuse_members(config_class, fields, str(path))
            _refuse_members(config_class, overrides, OVERRIDES)
            fields = config_class._decode_special_floats(fields)
            known, unused = config_class.from_dict(fields, return_unused_kwargs=True, **overrides)
            known.name_or_path = str(folder)
        except BanyanError:
            raise
        except Exception as error:  # Hugging Face's classes raise whatever a foreign value leads to
            raise InputError(f"{path}: transformers can't use it ({_in_a_line(error)}).") from error
        for key in unused:
            raise ConfigError(
                f"model.overrides.{key}: {path} and Hugging Face's {known.model_type} have no such field."
            )
        for part in _parts(known):
            chosen = {key: getattr(part, f"_{key}", None) for key in BUILT_IN}
            check_doors(chosen, str(path))
        return known


def has_head(settings: Model, head: str) -> bool:
    """Whether transformers knows a class that trains the model of model.path with another head."""
    config = read_model_config(settings)
    with _transformers() as transformers:
        return type(config) in getattr(transformers, HEADS[head].mapping)


def _other_heads(head: str, fits: set[str]) -> str:
    """What a model isn't, and the objectives that it is for."""
    others = [f"objective={other.objective}" for name, other in HEADS.items() if name in fits]
    return f"{HEADS[head].noun}" + (f"; it can be trained by {', '.join(others)}" if others else "")


def _refuse_members(config_class: Any, fields: Mapping[str, Any], source: str) -> None:
    """Refuses, at any depth, fields that would take the place of a method or a plan of Hugging Face's own classes."""
    own = {field.name for field in dataclasses.fields(config_class)} | {"model_type"}
    for place, key, _ in fields_of(fields):
        member = inspect.getattr_static(config_class, key, None)
        if key.startswith("__") and key != "__float__":
            member = key
        labels = place.startswith(("id2label.", "label2id.", "task_specific_params."))
        if member is not None and key not in own and not isinstance(member, property) and not labels:
            raise InputError(
                f"{source}: {place} is the name of a part of Hugging Face's {config_class.__name__}, no field."
            )


def _parts(config: Any) -> Iterator[Any]:
    """A configuration and those inside it."""
    yield config
    for name in config.sub_configs:
        if getattr(config, name, None) is not None:
            yield from _parts(getattr(config, name))


def build_inner(settings: Model) -> Any:
    """Its module, with parameters that mean nothing yet; fp32, on the device of the context.

    InputError if transformers can't build what the config.json describes, or it would be larger than any model.
    """
    config = read_model_config(settings)
    with _transformers() as transformers:
        from transformers.initialization import no_init_weights

        try:
            with no_init_weights(), _bounded(settings):
                inner = getattr(transformers, HEADS[settings.head].auto_class).from_config(config, dtype=torch.float32)
            inner.tie_weights()
        except (BanyanError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the Hugging Face modules raise whatever a foreign value leads to
            raise InputError(f"{settings.path}: transformers can't build it ({_in_a_line(error)}).") from error
    inner.config.use_cache = False
    return inner


@contextlib.contextmanager
def _bounded(settings: Model) -> Iterator[None]:
    """Where modules are built, and one that is larger than any model isn't built to the end."""
    modules = elements = buffered = 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise InputError(f"{settings.path}: a model of more than {MOST_MODULES:,} modules; mend its config.json.")

    def count_parameter(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal elements
        elements += parameter.numel() if parameter is not None else 0
        if elements > MOST_PARAMETERS:
            raise InputError(
                f"{settings.path}: a model of more than {MOST_PARAMETERS:,} parameters; mend its config.json."
            )

    def count_buffer(_: nn.Module, name: str, buffer: Tensor | None) -> None:
        nonlocal buffered
        buffered += buffer.numel() if buffer is not None else 0
        if buffered > MOST_BUFFERED:
            raise InputError(f"{settings.path}: buffers of more than {MOST_BUFFERED:,} numbers; mend its config.json.")

    hooks = (
        nn.modules.module.register_module_module_registration_hook(count_module),
        nn.modules.module.register_module_parameter_registration_hook(count_parameter),
        nn.modules.module.register_module_buffer_registration_hook(count_buffer),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def load_inner(settings: Model) -> Any:
    """Its module with the weights of the folder, fp32, on the CPU. InputError unless they are all there."""
    config = read_model_config(settings)
    with _transformers() as transformers:
        try:
            inner, found = getattr(transformers, HEADS[settings.head].auto_class).from_pretrained(
                local_folder(str(settings.path)),
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
        except Exception as error:  # what else a foreign file leads to
            raise InputError(f"{settings.path}: transformers can't load it ({_in_a_line(error)}).") from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if found[what]:
            name = min(map(str, found[what]))
            raise InputError(
                f"{settings.path}: {name} is among the {what.replace('_', ' ')}: the weights aren't those of "
                "its config.json with model.overrides; mend these, or move the weights away to train from scratch."
            )
    return inner


def causal_classes() -> frozenset[str]:
    """The names of the classes that transformers loads causal language models with."""
    with _transformers() as transformers:
        return frozenset(transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())


def load_headless(settings: Model, config: Any) -> Any:
    """The module of a configuration without a head, with the weights of its folder; fp32, on the CPU.

    InputError unless they are all there; a pooler, which hidden states don't need, may be missing.
    """
    find_tensors(local_folder(str(settings.path)))  # refuses what isn't safetensors, or broken
    with _transformers() as transformers:
        try:
            with _bounded(settings):
                inner, found = transformers.AutoModel.from_pretrained(
                    local_folder(str(settings.path)),
                    config=config,
                    dtype=torch.float32,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except BanyanError:
            raise
        except Exception as error:  # what else a foreign file leads to
            raise InputError(f"{settings.path}: transformers can't load it ({_in_a_line(error)}).") from error
    lacking = [str(name) for name in found["missing_keys"] if "pooler" not in str(name)]
    for name in (*sorted(lacking), *sorted(str(each[0]) for each in found["mismatched_keys"])):
        raise InputError(f"{settings.path}: {name} isn't among its weights, or of another shape; fetch them again.")
    return inner


def write_config(settings: Model, *, apart: bool = False) -> dict[str, Any]:
    """The config.json that counts: the folder's, overrides in it, and the class that transformers loads it with.

    `apart` unties what it ties, as transformers does where a folder holds two different heads.
    """
    config = read_model_config(settings)
    with _transformers() as transformers:
        kind = _class_of(transformers, settings.head, config)
    for part in _parts(config):
        if apart and hasattr(part, "tie_word_embeddings"):
            part.tie_word_embeddings = False
    return json.loads(config.to_json_string(use_diff=True)) | {"architectures": [kind]}


def _class_of(transformers: Any, head: str, config: Any) -> str:
    """The name of the class that transformers loads a model of this head with."""
    found = getattr(transformers, HEADS[head].mapping)[type(config)]
    return str((found[0] if isinstance(found, tuple) else found).__name__)


def has_dropout(module: nn.Module) -> bool:
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
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched, whatever a model's code would like to
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
        with quiet_torchao():
            yield transformers
    finally:
        transformers.logging.set_verbosity(verbosity)
        if bars:
            transformers.logging.enable_progress_bar()


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Where modules are built with their buffers, and parameters that take no memory."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is tied stays one
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
