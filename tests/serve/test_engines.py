"""Engines in this process: what shares a batch changes no answer, and each computes the model that was exported."""

import asyncio
import contextlib
import dataclasses
import json
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hf_folder import make_folder
from tests.hugging_face import save_other
from trainer.config import Checkpoint, Run
from trainer.config.serve import ServeSettings
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import BanyanError, ConfigError
from trainer.evaluate.folder_model import load_folder
from trainer.evaluate.sampling import Sampling, generate_tokens
from trainer.model.build import build_empty
from trainer.model.hugging_face.key_cache import takes_keys
from trainer.run.speaker import open_speaker
from trainer.serve.choose import BOUNDS, OF_ENGINE, check_engine, choose_engine, open_engine
from trainer.serve.engines.batch_decoder import AT_ONCE
from trainer.serve.engines.cpu_products import TOGETHER, Int8Linear, LaidOutLinear
from trainer.serve.engines.engine import Ask, EngineBusy, EngineSettings
from trainer.serve.engines.llama_cpp import after_a_letter, require_cache_room
from trainer.serve.engines.torch_engine import TorchEngine
from trainer.serve.model_folder import ModelFolder
from trainer.serve.reference import Reference

CONTEXT = 1024
PROMPTS = ["the tree", "a", "red stone while the river", "many trunks and every root finds water " * 3]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that writes letters: llama.cpp doesn't tell all tokens of what is no text."""
    path = tmp_path_factory.mktemp("engines") / "model"
    make_folder(path, max_position_embeddings=CONTEXT)
    tokenizer, weights = load_tokenizer(path), load_file(path / "model.safetensors")
    for number in range(len(weights["lm_head.weight"])):  # what is no text is never the likeliest
        text = tokenizer.decode([number])
        if not (text.isascii() and text.isprintable()) or number in tokenizer.special_ids.values():
            weights["lm_head.weight"][number] = 0.0
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.fixture(scope="module")
def speaker(folder):
    return open_speaker(Run(), Checkpoint(), str(folder))


def settings_for(folder, precision="f32", slots=4, waiting=8):
    return EngineSettings(folder, precision, CONTEXT, slots, waiting, threads=1)


@contextlib.contextmanager
def opened(folder, slots=4, waiting=8, **keys):
    """The engine that `serve` with these keys opens."""
    served, model = ServeSettings(**keys), ModelFolder(folder, "model")
    chosen = choose_engine(served, model)
    wanted = settings_for(folder, chosen.precision, slots, waiting)
    engine, _ = open_engine(chosen, served, model, load_tokenizer(folder), wanted, folder / "log")
    try:
        yield engine
    finally:
        engine.close()


async def ids_of(engine, ask):
    return [token.id async for piece in engine.answer(ask) for token in piece.tokens]


def answered(engine, *asks):
    """The ids of answers that are asked for at the same time."""

    async def gather():
        return await asyncio.gather(*(ids_of(engine, ask) for ask in asks))

    return asyncio.run(gather())


def greedy(speaker, ids, count, ends=frozenset()):
    how = Sampling(max_tokens=count, temperature=0)
    return list(generate_tokens(speaker.model, ids, how, context_length=CONTEXT, end_of_text=-1, also_at=ends))


def asks_of(speaker, **more):
    """Of all lengths, so that rows leave in mid-flight and others take their places."""
    ids = [speaker.tokenizer.encode(prompt) for prompt in PROMPTS]
    return [
        Ask(ids[number % 4], max_tokens=5 + 7 * (number % 3), ends=frozenset(), **more)
        for number in range(TOGETHER + 3)
    ]


@pytest.mark.parametrize("slots", [1, 3, TOGETHER + 3])
def test_greedy_answers_are_those_of_generate_whatever_shares_their_batch(folder, speaker, slots):
    asks = asks_of(speaker, temperature=0.0)
    with opened(folder, slots=slots, waiting=99, engine="torch") as engine:
        assert answered(engine, *asks) == [greedy(speaker, ask.ids, ask.max_tokens) for ask in asks]
        assert (engine.running(), engine.waiting()) == (0, 0)


def test_sampled_answers_follow_their_seeds_whatever_shares_their_batch(folder, speaker):
    asks = [
        dataclasses.replace(ask, seed=number, temperature=1.5, top_p=0.9) for number, ask in enumerate(asks_of(speaker))
    ]
    with opened(folder, slots=TOGETHER, waiting=99, engine="torch") as engine:
        together = answered(engine, *asks)
        assert together == [answered(engine, ask)[0] for ask in asks]
        assert len(set(map(tuple, together))) == len(asks)


def test_an_answer_ends_at_its_own_token_and_the_others_go_on(folder, speaker):
    ids = speaker.tokenizer.encode("the tree")
    whole = greedy(speaker, ids, 12)
    end = frozenset({whole[4]})
    ask = Ask(ids, 12, end, temperature=0.0)
    with opened(folder, engine="torch") as engine:
        ended, other = answered(engine, ask, dataclasses.replace(ask, ends=frozenset()))
    assert ended == greedy(speaker, ids, 12, ends=end)
    assert len(ended) < len(other)
    assert other == whole


def test_a_long_prompt_is_read_in_parts_and_a_cancelled_answer_disturbs_nobody(folder, speaker):
    ids = speaker.tokenizer.encode("the old tree by the river grows many trunks " * 40)[: AT_ONCE + 100]
    assert len(ids) == AT_ONCE + 100
    short = Ask(speaker.tokenizer.encode("a"), 60, frozenset(), temperature=0.0)
    long = Ask(ids, 20, frozenset(), temperature=0.0)

    async def leave(engine):
        async with contextlib.aclosing(engine.answer(dataclasses.replace(short, max_tokens=900))) as pieces:
            await anext(pieces)
            await anext(pieces)

    async def together(engine):
        return await asyncio.gather(ids_of(engine, short), ids_of(engine, long), leave(engine))

    with opened(folder, engine="torch") as engine:
        one, two, _ = asyncio.run(together(engine))
        assert (engine.running(), engine.waiting()) == (0, 0)
    assert one == greedy(speaker, short.ids, 60)
    assert two == greedy(speaker, ids, 20)


def test_more_than_may_wait_are_refused_and_a_closed_engine_tells_so(folder, speaker):
    ask = Ask(speaker.tokenizer.encode("a"), 200, frozenset(), temperature=0.0)

    async def crowd(engine):
        return await asyncio.gather(*(ids_of(engine, ask) for _ in range(4)), return_exceptions=True)

    with opened(folder, slots=1, waiting=2, engine="torch") as engine:
        found = asyncio.run(crowd(engine))
        assert [type(each) for each in found].count(EngineBusy) == 1
        assert [each for each in found if not isinstance(each, EngineBusy)] == [greedy(speaker, ask.ids, 200)] * 3

        async def closed():
            async for _ in engine.answer(dataclasses.replace(ask, max_tokens=900)):
                await asyncio.to_thread(engine.close)

        with pytest.raises(RuntimeError, match="the engine was closed"):
            asyncio.run(closed())


FOREIGN = {"gpt2": {"n_positions": 256}, "gemma2": {}, "bloom": {}, "mamba": {}}


@pytest.mark.parametrize("kind", ["qwen3_moe", "lstm", *FOREIGN])
def test_other_architectures_are_decoded_together_as_well(kind, tmp_path, speaker):
    model = other_model(kind, tmp_path, speaker.tokenizer)
    engine = TorchEngine(settings_for(tmp_path), model, speaker.tokenizer)
    asks = asks_of(speaker, temperature=0.0)[:5]
    try:
        found = answered(engine, *asks)
    finally:
        engine.close()
    for ask, ids in zip(asks, found, strict=True):
        how = Sampling(max_tokens=ask.max_tokens, temperature=0)
        assert ids == list(generate_tokens(model, ask.ids, how, context_length=CONTEXT, end_of_text=-1))


def test_hugging_faces_keys_are_kept_where_its_model_takes_them(tmp_path, speaker):
    taken = {kind: takes_keys(other_model(kind, tmp_path / kind, speaker.tokenizer)) for kind in FOREIGN}
    assert taken == {"gpt2": True, "gemma2": True, "bloom": True, "mamba": False}


def other_model(kind, folder, tokenizer):
    """A model with random weights, as it is loaded."""
    from tests.run_ranks import small_config

    if kind in FOREIGN:
        save_other(folder, kind, **FOREIGN[kind])
        return load_folder(folder, torch.device("cpu"))
    if kind != "lstm":
        make_folder(folder, kind, tokenizer)
        return load_folder(folder, torch.device("cpu"))
    config = small_config("data", "run").model
    config.kind, config.vocab_size = "lstm", tokenizer.vocab_size
    model = build_empty(config, torch.device("cpu"), torch.float32).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=draw)
    return model


ENGINES = [
    pytest.param(engine, precision, marks=[] if precision in ("f32", "bf16") else [pytest.mark.full])
    for engine, precisions in OF_ENGINE.items()
    if engine != "vllm"
    for precision in precisions
]


@pytest.mark.parametrize(("engine", "precision"), ENGINES)
def test_an_engine_computes_the_model_within_the_bound_of_its_precision(folder, speaker, engine, precision):
    if engine == "llama_cpp" and find_spec("xllamacpp") is None:
        pytest.skip("xllamacpp not installed")
    reference = Reference(folder, speaker.tokenizer, CONTEXT, as_hugging_face=True)
    ids = speaker.prompt_ids("the old tree by the river")
    asks = asks_of(speaker, temperature=0.0)[:5]
    with opened(folder, engine=engine, precision=precision, waiting=99) as found:
        worst = asyncio.run(check_engine(found, reference, ids))
        assert worst < BOUNDS[precision]
        if precision == "f32":
            expected = [greedy(speaker, ask.ids, ask.max_tokens) for ask in asks]
            assert answered(found, *asks) == expected


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_on_a_cpu_its_own_kernels_answer_alike_in_any_company(folder, speaker, precision):
    asks = asks_of(speaker, temperature=0.0)
    with opened(folder, engine="torch", precision=precision, slots=TOGETHER, waiting=99) as engine:
        together = answered(engine, *asks)
        assert together == [answered(engine, ask)[0] for ask in asks]


def test_products_of_few_rows_are_those_of_the_weights():
    from trainer.model.hugging_face.int8_weights import quantize

    draw = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(96, 40)
    rows = torch.randn(TOGETHER + 1, 96, generator=draw)
    laid_out = LaidOutLinear(linear.to(torch.bfloat16))
    expected = torch.nn.functional.linear(rows.bfloat16(), linear.weight, linear.bias)
    assert torch.allclose(laid_out(rows.bfloat16()).float(), expected.float(), atol=0.02)
    linear = linear.float()
    linear.weight = torch.nn.Parameter(quantize(linear.weight.detach()), requires_grad=False)
    exact = torch.nn.functional.linear(rows, linear.weight, linear.bias)
    quick = Int8Linear(linear)
    assert torch.equal(quick(rows), exact)  # more rows than are quick
    assert torch.allclose(quick(rows[:3]), exact[:3], atol=0.02)
    assert torch.equal(quick(rows[:1]), quick(rows[:TOGETHER])[:1])


@pytest.mark.skipif(find_spec("xllamacpp") is None, reason="xllamacpp not installed")
def test_a_context_that_no_memory_has_room_for_is_refused_with_one_that_fits(folder):
    config = json.loads((folder / "config.json").read_text())
    long = dataclasses.replace(settings_for(folder, slots=4096), context=2**24)
    with pytest.raises(ConfigError, match=r"serve\.slots=4096 take .* GiB .* give serve\.context=\d+, or"):
        require_cache_room(config, long)
    require_cache_room(config, settings_for(folder))


@pytest.mark.parametrize("text", ["森", "🌳", "naïve 漢字 🌳 ü", "ß and é", "\u200d👩‍🔬"])
def test_characters_in_several_tokens_are_whole_again(speaker, text):
    tokenizer = speaker.tokenizer
    ids = tokenizer.encode("the tree" + text)
    assert max(len(text.encode()) // len(text), 2) <= len(ids)
    for start, letter in enumerate(text):
        if letter.isascii():
            continue
        assert tokenizer.decode(after_a_letter(tokenizer, text[start:])) == text[start:]
        assert ids[-len(after_a_letter(tokenizer, text)) :] == after_a_letter(tokenizer, text)


def test_another_model_than_the_exports_is_refused(folder, speaker, tmp_path):
    make_folder(tmp_path, "llama", speaker.tokenizer, max_position_embeddings=CONTEXT)
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"] *= 1.1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reference = Reference(folder, speaker.tokenizer, CONTEXT, as_hugging_face=True)
    ids = speaker.prompt_ids("the old tree by the river")
    with (
        opened(tmp_path, engine="torch") as engine,
        pytest.raises(BanyanError, match=r"serve\.engine=torch: .* off by .* nats .*: it isn't that model"),
    ):
        asyncio.run(check_engine(engine, reference, ids))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"engine": "llama_cpp"}, r"serve\.engine=llama_cpp needs the package xllamacpp, which isn't installed"),
        ({"engine": "vllm"}, r"serve\.engine=vllm needs the package vllm, which isn't installed: .*vllm\.sh"),
        ({"engine": "vllm", "vllm_python": "/no/such/python"}, r"serve\.engine=vllm needs the package vllm"),
    ],
)
def test_an_engine_that_is_absent_is_refused_by_its_package(folder, monkeypatch, keys, said):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)  # as where it isn't installed
    with pytest.raises(ConfigError, match=said):
        choose_engine(ServeSettings(**keys), ModelFolder(folder, "model"))
    chosen = choose_engine(ServeSettings(), ModelFolder(folder, "model"))
    assert (chosen.engine, "xllamacpp isn't installed" in chosen.why) == ("torch", True)


def test_a_folder_in_8_bits_is_served_by_torch_whatever_else_is_installed(folder, speaker, tmp_path):
    from trainer.config import Export
    from trainer.verbs.export import main as export

    int8 = Export(path=str(folder), format="int8")
    int8.export.output = str(tmp_path / "int8")
    assert export(int8) == 0
    model = ModelFolder(tmp_path / "int8", "model")
    chosen = choose_engine(ServeSettings(), model)
    assert (chosen.engine, chosen.precision) == ("torch", "int8")
    reference = Reference(model.folder, speaker.tokenizer, CONTEXT, as_hugging_face=True)
    with opened(model.folder) as engine:  # whose products of few rows round to bf16, and those of `generate` don't
        worst = asyncio.run(check_engine(engine, reference, speaker.prompt_ids("the tree")))
        assert 0 < worst < 0.05
    for refused, said in (({"engine": "llama_cpp"}, "which torch alone reads"), ({"precision": "f32"}, "leave it out")):
        with pytest.raises(ConfigError, match=said):
            choose_engine(ServeSettings(**refused), model)
