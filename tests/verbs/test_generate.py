import dataclasses
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import trainer.evaluate.trained_model
import trainer.run.speaker
import trainer.verbs.generate
from trainer.config import Generate, Model, Pretrain
from trainer.data.tokens.tokenizer import Tokenizer, train_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.evaluate.sampling import Sampling, continue_text, decode_stream, generate_tokens, sample
from trainer.machine import streams
from trainer.machine.terminal import write_stream
from trainer.model.decoder import Transformer
from trainer.model.initialize import initialize

TEXTS = ["def main():\n    return 0\n", "森林里的树 🌳 và cây đa", "import os, sys\n"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([text.encode() for text in TEXTS], vocab_size=300, name="test")


def built(vocab_size: int = 300) -> Transformer:
    config = Model(vocab_size=vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    config.initializer_range = 0.3  # untrained, yet far from uniform
    model = Transformer(config)
    initialize(model, seed=2, model=config)
    return model


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# ----------------------------------------------------------------------------------------------------- sampling


def drawn(logits: torch.Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    """Frequencies in 800 samples."""
    rng = generator()
    tokens = [sample(logits, temperature, top_k, top_p, rng) for _ in range(800)]
    return torch.bincount(torch.tensor(tokens), minlength=len(logits)) / 800


def test_samples_follow_the_distribution():
    probabilities = torch.tensor([0.1, 0.6, 0.25, 0.05])
    torch.testing.assert_close(drawn(probabilities.log()), probabilities, atol=0.06, rtol=0)
    sharpened = probabilities**2 / (probabilities**2).sum()
    torch.testing.assert_close(drawn(probabilities.log(), temperature=0.5), sharpened, atol=0.06, rtol=0)


def test_top_k_and_top_p_cut_the_unlikely():
    logits = torch.tensor([0.1, 0.6, 0.25, 0.05]).log()
    assert (drawn(logits, top_k=2) > 0).tolist() == [False, True, True, False]
    assert (drawn(logits, top_p=0.7) > 0).tolist() == [False, True, True, False]
    assert (drawn(logits, top_p=0.5) > 0).tolist() == [False, True, False, False]
    # After top_k=2 the likeliest holds 0.6 / 0.85 of what is left.
    assert (drawn(logits, top_k=2, top_p=0.7) > 0).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 1e-300},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 100.0, "top_k": 1, "top_p": 1e-9},
    ],
)
def test_extreme_settings_take_the_likeliest(settings):
    logits = torch.tensor([1.0, 3.0, 2.0, -1e30])
    draw = {"top_k": 0, "top_p": 1.0, **settings}
    assert sample(logits, generator=generator(), **draw) == 1


def test_top_k_above_the_vocabulary_is_no_cut():
    assert sample(torch.tensor([0.0, 9.0]), 1.0, 50, 1.0, generator()) == 1


# --------------------------------------------------------------------------------------------------- generation


def taken(model: Transformer, tokens: list[int], *, context_length: int = 64, **sampling: object) -> list[int]:
    never = model.config.vocab_size  # an end of text that isn't drawn
    return list(generate_tokens(model, tokens, Sampling(**sampling), context_length=context_length, end_of_text=never))


def test_greedy_tokens_are_those_of_the_full_forward():
    model, tokens = built(), [5, 6, 7]
    generated = taken(model, tokens, max_tokens=20, temperature=0.0)
    for _ in range(20):
        with torch.no_grad():
            tokens = [*tokens, int(model(torch.tensor([tokens]))[0, -1].argmax())]
    assert [5, 6, 7, *generated] == tokens


def test_same_seed_same_tokens():
    model = built()
    assert taken(model, [5], seed=1, max_tokens=20) == taken(model, [5], seed=1, max_tokens=20)
    assert taken(model, [5], seed=1, max_tokens=20) != taken(model, [5], seed=2, max_tokens=20)


def test_end_of_text_stops_and_is_not_given_out():
    model = built()
    always = taken(model, [5], max_tokens=10, temperature=0.0)
    stop = always[4]
    sampling = Sampling(max_tokens=10, temperature=0.0)
    generated = generate_tokens(model, [5], sampling, context_length=64, end_of_text=stop)
    assert list(generated) == always[: always.index(stop)]


@pytest.mark.parametrize("context_length", [1, 2, 7, 8])
def test_text_longer_than_the_context_goes_on(context_length, monkeypatch):
    lengths = []
    forward = Transformer.forward

    def watched(self: Transformer, tokens: torch.Tensor, cache: object) -> torch.Tensor:
        logits = forward(self, tokens, cache=cache)
        lengths.append(cache.length)
        return logits

    monkeypatch.setattr(Transformer, "forward", watched)
    generated = taken(built(), list(range(1, 21)), context_length=context_length, max_tokens=30)
    assert len(generated) == 30
    assert len(lengths) == 30
    assert max(lengths) == context_length


def test_the_model_is_left_in_training_and_gradients_on():
    model = built().train()
    stream = generate_tokens(model, [5], Sampling(), context_length=64, end_of_text=0)
    next(stream)
    assert model.training
    assert torch.is_grad_enabled()


def test_compiled_blocks_are_not_compiled_for_sampling():
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> object:
        compilations.append(graph)
        return graph.forward

    model = built()
    expected = taken(model, [5], max_tokens=5)
    for block in model.blocks:
        block.forward = torch.compile(block.forward, backend=backend)
    assert taken(model, [5], max_tokens=5) == expected
    assert not compilations


def test_sampling_leaves_cudnn_out_of_attention_and_training_has_it_back():
    enabled = []
    model = built()
    model.blocks[0].register_forward_hook(lambda *_: enabled.append(torch.backends.cuda.cudnn_sdp_enabled()))
    before = torch.backends.cuda.cudnn_sdp_enabled()
    taken(model, [5], max_tokens=2)
    assert enabled == [False, False]
    assert torch.backends.cuda.cudnn_sdp_enabled() is before is True


# --------------------------------------------------------------------------------------------------------- text


def test_streamed_pieces_are_whole_characters_and_join_to_the_text(tokenizer):
    text = "def main(): 森林 🌳🌳 cây\n" * 3
    ids = tokenizer.encode(text)
    pieces = list(decode_stream(tokenizer, tokenizer.encode("森"), ids))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 10


def test_streamed_pieces_join_to_the_text_even_of_random_bytes(tokenizer):
    ids = torch.randint(1, 300, (500,), generator=generator()).tolist()
    before = tokenizer.encode("def")
    assert "".join(decode_stream(tokenizer, before, ids)) == tokenizer.decode(before + ids)[len("def") :]


def test_a_character_cut_at_the_end_is_shown_as_such(tokenizer):
    ids = tokenizer.encode("🌵")  # not in the training text: its bytes are tokens
    assert len(ids) > 1
    assert list(decode_stream(tokenizer, [], ids[:-1])) == ["\ufffd"]


def test_an_empty_prompt_starts_a_document(tokenizer):
    model = built()
    sampling = Sampling(max_tokens=12, temperature=0.0)
    end = tokenizer.end_of_text_id
    ids = generate_tokens(model, [end], sampling, context_length=64, end_of_text=end)
    text = "".join(continue_text(model, tokenizer, "", sampling, context_length=64))
    assert text == tokenizer.decode(list(ids))


# ------------------------------------------------------------------------------------------------------ the verb


@pytest.fixture
def run_dir(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory whose checkpoint holds `built()`."""
    model = built()
    config = Pretrain(model=model.config)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    tokenizer.save(tmp_path / "tokenizer")
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    monkeypatch.setattr(trainer.run.speaker, "find_checkpoint", lambda folder, step: folder / f"step-{step}")
    monkeypatch.setattr(trainer.run.speaker, "read_state", lambda checkpoint: {"tokenizer_sha256": tokenizer.sha256})
    monkeypatch.setattr(trainer.evaluate.trained_model, "read_weights", lambda checkpoint, kind: weights.items())
    return tmp_path


def verb(run_dir: Path | None, **changes: object) -> Generate:
    config = Generate(prompt="def main", max_tokens=20)
    config.run.dir = str(run_dir) if run_dir else None
    return dataclasses.replace(config, **changes)


def test_verb_prints_the_prompt_and_its_continuation(run_dir, tokenizer, capsys):
    assert trainer.verbs.generate.main(verb(run_dir)) == 0
    expected = "".join(continue_text(built(), tokenizer, "def main", Sampling(max_tokens=20), context_length=256))
    assert capsys.readouterr().out == f"def main{expected}\n"


def test_prompt_that_is_not_utf8_is_taken_as_well_as_can_be(run_dir, capsys):
    assert trainer.verbs.generate.main(verb(run_dir, prompt="a\udcffb")) == 0
    assert capsys.readouterr().out.startswith("a\ufffdb")


@pytest.mark.parametrize("changes", [{"temperature": -1.0}, {"top_p": 1.5}, {"top_k": -1}, {"max_tokens": 0}])
def test_absurd_settings_are_refused_by_name(run_dir, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        trainer.verbs.generate.main(verb(run_dir, **changes))


def test_missing_run_directory_is_named(tmp_path):
    for missing in (None, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=r"run\.dir"):
            trainer.verbs.generate.main(verb(missing))


def test_missing_tokenizer_is_named(run_dir):
    (run_dir / "tokenizer" / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match="tokenizer"):
        trainer.verbs.generate.main(verb(run_dir))


def test_weights_that_dont_fit_are_refused(run_dir, monkeypatch):
    weights = dict(trainer.evaluate.trained_model.read_weights(None, None))
    norm = weights.pop("model.norm.weight")
    for changed, message in (({}, "no weights for model.norm.weight"), ({"model.norm.weight": norm[:1]}, "fit")):
        monkeypatch.setattr(
            trainer.evaluate.trained_model, "read_weights", lambda checkpoint, kind, c=changed: (weights | c).items()
        )
        with pytest.raises(InputError, match=message):
            trainer.verbs.generate.main(verb(run_dir))


def test_a_terminal_that_is_not_utf8_gets_what_it_can_show():
    buffer = io.BytesIO()
    out = io.TextIOWrapper(buffer, encoding="ascii", errors=streams.ERRORS[1])  # as every command begins with
    write_stream(["tree ", "🌳"], out)
    assert buffer.getvalue() == b"tree ?\n"


def test_pieces_are_written_as_they_come():
    out = io.StringIO()
    pieces = ("a" if not out.getvalue() else out.getvalue() for _ in range(3))
    write_stream(pieces, out)
    assert out.getvalue() == "aaaa\n"


def test_a_reader_that_goes_away_ends_it_quietly():
    program = "import itertools, sys; from trainer.verbs.generate import write_stream; " + (
        "write_stream(itertools.repeat('x' * 1000), sys.stdout)"
    )
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout.read(10) == b"x" * 10
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 0
