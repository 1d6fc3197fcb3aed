"""What explain reads off a prompt equals what hooks and gradients on the Hugging Face model give."""

import json

import pytest
import torch

from tests.corpus import make_tokenizer
from tests.hf_folder import make_folder
from tests.hugging_face import KINDS, OTHERS, load_model, save_other
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import Explain, Export
from trainer.errors import ConfigError, InputError
from trainer.verbs.explain import main
from trainer.verbs.export import main as export

PROMPT = "the tree grows many trunks and every root finds water"
OURS, THEIRS = ("llama tied", "qwen3_moe"), ("gpt2", "gemma2")
REST = [
    *(pytest.param(kind, marks=pytest.mark.full) for kind in KINDS if kind not in OURS),
    *(pytest.param(kind, marks=pytest.mark.full) for kind in OTHERS if kind not in THEIRS),
]


def folder_of(kind, folder):
    """A Hugging Face folder with a tokenizer of 300 tokens."""
    if kind in KINDS:
        make_folder(folder, kind)
    else:
        save_other(folder, kind)
        make_tokenizer().save(folder)
    return folder


def explain(output, **settings):
    config = Explain(output=str(output), **settings)
    assert main(config) == 0
    return json.loads((output / "explain.json").read_text())


def close(found, expected, tolerance=1e-4):
    torch.testing.assert_close(torch.tensor(found), expected.float(), atol=tolerance, rtol=tolerance)


@torch.no_grad()
def check_predictions(record, model, ids):
    out = model(input_ids=ids, use_cache=False)
    log_probabilities = out.logits[0].log_softmax(-1)
    tokens = record["tokens"]
    assert [token["id"] for token in tokens] == ids[0].tolist()
    own = log_probabilities[:-1].gather(1, ids[0, 1:, None])
    close([token["loss"] for token in tokens[1:]], -own[:, 0])
    entropy = -(log_probabilities.exp() * log_probabilities).sum(-1)
    close([token["entropy"] for token in tokens[1:]], entropy[:-1])
    close(record["next"]["entropy"], entropy[-1])
    ranks = (log_probabilities[:-1] > own).sum(-1) + 1
    assert [token["rank"] for token in tokens[1:]] == ranks.tolist()
    assert tokens[0]["loss"] is None


@torch.no_grad()
def check_lens(record, model, ids):
    """Each layer's output, by hooks, through the norm and the head."""
    layers = model.model.layers if hasattr(model, "model") else model.transformer.h
    norm = model.model.norm if hasattr(model, "model") else model.transformer.ln_f
    seen = []
    hooks = [
        layers[0].register_forward_pre_hook(
            lambda m, a, k: seen.append(a[0] if a else k["hidden_states"]), with_kwargs=True
        )
    ]
    hooks += [
        layer.register_forward_hook(lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out))
        for layer in layers
    ]
    logits = model(input_ids=ids, use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    final = logits.log_softmax(-1)
    cap = getattr(model.config, "final_logit_softcapping", None)
    assert [layer["layer"] for layer in record["lens"]["layers"]] == list(range(len(seen)))
    for hidden, layer in zip(seen, record["lens"]["layers"], strict=True):
        through = model.lm_head(norm(hidden))[0]
        ours = (torch.tanh(through / cap) * cap if cap else through).log_softmax(-1)
        close(layer["kl"], (final.exp() * (final - ours)).sum(-1), 1e-3)
        top = ours.exp().topk(3)
        close([[each["probability"] for each in top3[:3]] for top3 in layer["top"]], top.values)
        gathered = [[ours[place, each["id"]].exp() for each in top3[:3]] for place, top3 in enumerate(layer["top"])]
        close([[each["probability"] for each in top3[:3]] for top3 in layer["top"]], torch.tensor(gathered))


@torch.no_grad()
def check_attention(record, model, ids):
    model.set_attn_implementation("eager")
    theirs = model(input_ids=ids, output_attentions=True, use_cache=False).attentions
    layers = record["attention"]["layers"]
    assert len(layers) == len(theirs)
    for layer, attention in zip(layers, theirs, strict=True):
        assert len(layer["heads"]) == attention.shape[1]
        for head, whole in zip(layer["heads"], attention[0], strict=True):
            for place, row in enumerate(head["rows"]):
                close(row, whole[place, : place + 1])


def check_gradients(record, model, ids):
    target = record["target"]
    embedded = model.get_input_embeddings()(ids[:, : target["position"]]).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False).logits[0, -1]
    loss = -logits.log_softmax(-1)[target["id"]]
    (gradient,) = torch.autograd.grad(loss, embedded)
    tokens = record["tokens"][: target["position"]]
    close(target["loss"], loss.detach())
    close([token["gradient_x_input"] for token in tokens], (gradient * embedded.detach()).sum(-1)[0])
    close([token["gradient_norm"] for token in tokens], gradient.norm(dim=-1)[0])
    assert all(token["gradient_norm"] is None for token in record["tokens"][target["position"] :])


@pytest.mark.parametrize("kind", [*OURS, *THEIRS, *REST])
def test_readings_equal_hooks_on_the_hugging_face_model(kind, tmp_path):
    folder = folder_of(kind, tmp_path / "hf")
    record = explain(tmp_path / "out", path=str(folder), prompt=PROMPT)
    model = load_model(folder)
    ids = torch.tensor([[token["id"] for token in record["tokens"]]])
    check_predictions(record, model, ids)
    check_gradients(record, model, ids)
    if kind in (*KINDS, "gpt2", "gemma2"):
        check_lens(record, model, ids)
    if kind == "mamba":
        assert record["attention"]["layers"] == []
    else:
        check_attention(record, model, ids)


def test_a_target_after_the_prompt_and_one_inside_it(tmp_path):
    folder = folder_of("llama", tmp_path / "hf")
    record = explain(tmp_path / "after", path=str(folder), prompt="the tree", target="s")
    assert record["target"]["position"] == len(record["tokens"])
    ids = torch.tensor([[token["id"] for token in record["tokens"]] + [record["target"]["id"]]])
    check_gradients(record, load_model(folder), ids)
    inside = explain(tmp_path / "inside", path=str(folder), prompt=PROMPT, target_position=3)
    check_gradients(inside, load_model(folder), torch.tensor([[token["id"] for token in inside["tokens"]]]))
    one = explain(tmp_path / "one", path=str(folder), prompt="t")
    assert one["target"]["position"] == 1
    assert one["target"]["id"] == one["next"]["top"][0]["id"]


def test_lens_and_maps_of_the_last_tokens_are_those_of_the_whole(tmp_path):
    folder = folder_of("llama", tmp_path / "hf")
    whole = explain(tmp_path / "whole", path=str(folder), prompt=PROMPT)
    part = explain(tmp_path / "part", path=str(folder), prompt=PROMPT, tokens=5)
    first = len(whole["tokens"]) - 5
    assert part["lens"]["first_position"] == part["attention"]["first_position"] == first
    for one, other in zip(whole["lens"]["layers"], part["lens"]["layers"], strict=True):
        close(other["kl"], torch.tensor(one["kl"][first:]))
    for one, other in zip(whole["attention"]["layers"], part["attention"]["layers"], strict=True):
        for head, cut in zip(one["heads"], other["heads"], strict=True):
            for place, row in enumerate(cut["rows"]):
                all_of_it = head["rows"][first + place]
                close(row, torch.tensor(all_of_it[first:]))
                close(cut["earlier"][place], torch.tensor(all_of_it[:first]).sum())
    assert [token["loss"] for token in part["tokens"]] == [token["loss"] for token in whole["tokens"]]


def test_a_run_in_bf16_is_read_as_its_export_is(corpus, tmp_path):
    run_dir = tmp_path / "run"
    config = small_config(corpus, run_dir, train__steps=2, train__precision="bf16", parallel__zero_stage=1)
    assert run_ranks(pretrain, config, 1) == [0]
    asked = Explain(prompt=PROMPT)
    asked.run.dir = str(run_dir)
    assert main(asked) == 0
    (path,) = (run_dir / "explain").glob("prompt-*/explain.json")
    record = json.loads(path.read_text())
    written = Export()
    written.run.dir, written.export.output = str(run_dir), str(tmp_path / "hf")
    assert export(written) == 0
    model = load_model(tmp_path / "hf")
    ids = torch.tensor([[token["id"] for token in record["tokens"]]])
    for check in (check_predictions, check_gradients, check_lens, check_attention):
        check(record, model, ids)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": "the tree " * 200}, r"prompt: .* tokens, but the model of path=.* sees 128 at most"),
        ({"prompt": "the", "target": "the tree grows"}, r"target=the tree grows: is \d+ tokens"),
        ({"prompt": "the", "target_position": 900}, "target_position=900: the prompt's"),
        ({"prompt": "the", "target": "s", "target_position": 1}, "target and target_position"),
        ({"prompt": "the", "top_k": 0}, "top_k=0"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_a_line(hf_folder, tmp_path, settings, says):
    with pytest.raises((ConfigError, InputError), match=says) as error:
        main(Explain(path=str(hf_folder), output=str(tmp_path / "out"), **settings))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    folder = folder_of("llama", tmp_path / "hf")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"path=.*: no tokenizer.json there"):
        main(Explain(path=str(folder), prompt="the"))
    with pytest.raises(ConfigError, match=r"run\.dir and path"):
        main(Explain(prompt="the"))


def test_weights_that_have_diverged_are_said_to_be_so(tmp_path):
    folder = tmp_path / "hf"
    model = make_folder(folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="its logits aren't finite"):
        main(Explain(path=str(folder), prompt=PROMPT))


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    return folder_of("llama", tmp_path_factory.mktemp("explain") / "hf")
