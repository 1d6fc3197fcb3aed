"""Which engine serves a model, and why; opens it, and holds a first answer against the model as trainer computes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainer.config.serve import ServeSettings
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import BanyanError, ConfigError, InputError, require
from trainer.evaluate.folder_model import load_folder
from trainer.model.hugging_face.config_json import read_json_object
from trainer.model.hugging_face.folder import CONFIG
from trainer.serve.engines.cpu_products import quicken
from trainer.serve.engines.engine import Ask, Engine, EngineSettings
from trainer.serve.engines.llama_cpp import MISSING as NO_LLAMA_CPP
from trainer.serve.engines.llama_cpp import LlamaCppEngine, has_llama_cpp, require_cache_room
from trainer.serve.engines.torch_engine import TorchEngine
from trainer.serve.engines.vllm import VllmEngine, find_python, require_python
from trainer.serve.model_folder import ModelFolder, gguf_folder, int8_folder
from trainer.serve.reference import Reference
from trainer.serve.watermark import mark_of

OF_ENGINE = {
    "torch": ("f32", "bf16", "int8"),
    "llama_cpp": ("f32", "f16", "q8_0", "q4_0"),
    "vllm": ("f32", "bf16", "f16"),
}
BOUNDS = {"f32": 2e-3, "bf16": 0.15, "f16": 0.05, "int8": 0.5, "q8_0": 0.5, "q4_0": 4.0}
"""How far an engine's log-probabilities of its likeliest tokens may be from the reference's, in nats, by precision."""
LIKELIEST = 5  # tokens that are compared


@dataclass(frozen=True)
class Chosen:
    """An engine and its weights' precision; `why` in words."""

    engine: str
    precision: str
    why: str


def choose_engine(settings: ServeSettings, model: ModelFolder) -> Chosen:
    """What serve.engine and serve.precision ask for. ConfigError in one line where that can't be had."""
    cuda = torch.cuda.is_available()
    is_int8 = model.is_int8
    if settings.engine != "auto":
        chosen = Chosen(settings.engine, _precision(settings, settings.engine, cuda=cuda, is_int8=is_int8), "as asked")
    elif is_int8 or settings.watermark:
        reason = "weights of 8 bits" if is_int8 else "a watermark"
        chosen = Chosen(
            "torch", _precision(settings, "torch", cuda=cuda, is_int8=is_int8), f"{reason}: no other does it"
        )
    elif cuda and _fits(settings, "vllm") and find_python(settings.vllm_python):
        chosen = Chosen("vllm", _precision(settings, "vllm", cuda=True, is_int8=False), "a GPU, and vLLM is installed")
    elif not cuda and _fits(settings, "llama_cpp") and has_llama_cpp():
        precision = _precision(settings, "llama_cpp", cuda=False, is_int8=False)
        chosen = Chosen("llama_cpp", precision, "a CPU, and xllamacpp is installed")
    else:
        lacking = "vllm" if cuda else "xllamacpp"
        why = f"{lacking} isn't installed, or doesn't have serve.precision={settings.precision}"
        chosen = Chosen("torch", _precision(settings, "torch", cuda=cuda, is_int8=False), why)
    require(
        not settings.watermark or chosen.engine == "torch",
        f"serve.watermark=true with serve.engine={chosen.engine}: that engine can't; use serve.engine=torch.",
    )
    require(
        not is_int8 or chosen.engine == "torch",
        f"serve.engine={chosen.engine}: {model.folder} holds weights of 8 bits, which torch alone reads; use "
        "serve.engine=torch.",
    )
    if chosen.engine == "llama_cpp" and not has_llama_cpp():
        raise ConfigError(NO_LLAMA_CPP)
    if chosen.engine == "vllm":
        require_python(settings.vllm_python)
    return chosen


def _fits(settings: ServeSettings, engine: str) -> bool:
    return settings.precision in ("auto", *OF_ENGINE[engine])


def _precision(settings: ServeSettings, engine: str, *, cuda: bool, is_int8: bool) -> str:
    if is_int8:
        require(
            settings.precision in ("auto", "int8"),
            f"serve.precision={settings.precision}: the folder's weights are in 8 bits; leave it out.",
        )
        return "int8"
    if settings.precision == "auto":
        return "bf16" if cuda and engine != "llama_cpp" else "f32"
    require(
        settings.precision in OF_ENGINE[engine],
        f"serve.precision={settings.precision} with serve.engine={engine}: it has {', '.join(OF_ENGINE[engine])}.",
    )
    return settings.precision


def open_engine(
    chosen: Chosen,
    settings: ServeSettings,
    model: ModelFolder,
    tokenizer: Tokenizer,
    wanted: EngineSettings,
    log: Path,
) -> tuple[Engine, Chosen]:
    """The engine, loaded; with auto, torch where the model can't be had in llama.cpp's format."""
    if chosen.engine == "llama_cpp":
        try:
            folder = gguf_folder(model, chosen.precision)
            require_cache_room(read_json_object(model.folder / CONFIG), wanted)
            return LlamaCppEngine(replace(wanted, folder=folder), tokenizer), chosen
        except InputError as error:
            if settings.engine != "auto":
                raise
            precision = chosen.precision if chosen.precision in OF_ENGINE["torch"] else "f32"
            chosen = Chosen("torch", precision, f"llama.cpp can't have the model: {error}")
            wanted = replace(wanted, precision=precision)
    if chosen.engine == "vllm":
        python = require_python(settings.vllm_python)
        return VllmEngine(wanted, tokenizer, python, list(settings.vllm_arguments), log), chosen
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = int8_folder(model) if chosen.precision == "int8" else model.folder
    loaded = load_folder(folder, device)
    if chosen.precision == "bf16":
        loaded = loaded.to(torch.bfloat16)
    quicken(loaded, chosen.precision)
    mark = mark_of(settings, _width(loaded)) if settings.watermark else None
    return TorchEngine(wanted, loaded, tokenizer, mark), chosen


@torch.no_grad()
def _width(model: torch.nn.Module) -> int:
    """How many logits there are."""
    device = next(model.parameters()).device
    return int(model(torch.zeros(1, 1, dtype=torch.long, device=device), cache=model.new_cache(2)).shape[-1])  # type: ignore[operator]


async def check_engine(engine: Engine, reference: Reference, ids: list[int]) -> float:
    """The largest difference, in nats, of the likeliest tokens' log-probabilities after fixed ids from the reference's.

    Of fewer ids where the engine ends after all of them. BanyanError beyond BOUNDS: it doesn't compute this model.
    """
    for length in range(len(ids), 0, -1):
        if told := await _likeliest(engine, ids[:length]):
            break
    else:
        raise BanyanError(f"serve.engine={engine.name}: it answers a fixed prompt with nothing at all.")
    expected = reference.logprobs(ids[:length])
    worst = max(abs(float(expected[token]) - logprob) for token, logprob in told)
    bound = BOUNDS[engine.precision]
    if not worst <= bound:
        raise BanyanError(
            f"serve.engine={engine.name}: the log-probability after a fixed prompt is off by {worst:.3g} nats "
            f"from the export's (bound {bound:g} in {engine.precision}): it isn't that model."
        )
    return worst


async def _likeliest(engine: Engine, ids: list[int]) -> list[tuple[int, float]]:
    """The engine's next token and its likeliest ones, with their log-probabilities; nothing if it ends there."""
    ask = Ask(ids, max_tokens=1, ends=frozenset(), temperature=0.0, logprobs=True, top=LIKELIEST)
    try:
        tokens = [token async for piece in engine.answer(ask) for token in piece.tokens]
    except RuntimeError as error:  # what llama.cpp or vLLM says
        raise BanyanError(f"serve.engine={engine.name}: a fixed prompt isn't answered: {str(error)[:300]}") from error
    told = [pair for token in tokens for pair in ((token.id, token.logprob), *token.top)]
    return [(number, logprob) for number, logprob in told if logprob is not None]
