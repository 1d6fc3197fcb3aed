"""Weights of Hugging Face's folders: whole, by region, and refused where they aren't the model's."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hugging_face import KINDS, save_model, some_tokens
from trainer.checkpoint.fragment import WEIGHT
from trainer.config import Model
from trainer.engine.initial_weights import check_head
from trainer.errors import InputError
from trainer.model.build import parameter_shapes
from trainer.model.decoder import Transformer
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.model.hugging_face.safetensors_folder import INDEX, SINGLE
from trainer.model.hugging_face.tensor_files import FolderReader, Tensor, write_tensors
from trainer.model.partition import Partition
from trainer.model.region import Region


def read_model(folder) -> Transformer:
    config = Model(**find_init_folder(str(folder)).architecture)
    model, reader, shapes = Transformer(config), FolderReader(folder), parameter_shapes(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            region = Region.of_slice(shapes[name], None)
            parameter.copy_(reader.read(name, WEIGHT, region).view(parameter.shape))
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shard", ["1GB", "30KB"])
@torch.no_grad()
def test_logits_equal_transformers(tmp_path, kind, shard):
    theirs = save_model(tmp_path, kind, shard=shard)
    assert (tmp_path / INDEX).is_file() == (shard != "1GB")
    difference = read_model(tmp_path)(some_tokens()) - theirs(some_tokens()).logits
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["qwen2", "qwen3_moe"])
def test_any_region_is_what_is_cut_from_the_whole(tmp_path, kind):
    save_model(tmp_path, kind, shard="30KB")
    model, reader = read_model(tmp_path), FolderReader(tmp_path)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for tensor_rank in range(2):
        partition = Partition(shapes, tensor_rank, 2, model.config.num_key_value_heads)
        for name, parameter in model.named_parameters():
            held = Region.of_slice(shapes[name], partition.slice_of(name))
            for part in range(3):  # as three ranks at stage 3 hold it
                region = Region(held.shape, held.slice, held.count * part // 3, held.count * (part + 1) // 3)
                assert torch.equal(reader.read(name, WEIGHT, region), region.cut(parameter.detach()))


def damaged(folder, change):
    tensors = load_file(folder / SINGLE)
    change(tensors)
    save_file(tensors, folder / SINGLE)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("model.norm.weight"), "model.norm.weight is not there"),
        (lambda t: t.update({"model.norm.weight": torch.ones(7)}), r"model.norm.weight is \(7,\), \(48,\)"),
        (lambda t: t.update({"model.norm.weight": torch.ones(48).char()}), "model.norm.weight is of I8"),
        (lambda t: t.update({"model.norm.weight": torch.ones(48).bool()}), "model.norm.weight is of BOOL"),
        (lambda t: t.update({"model.norm.weight": torch.ones(48).to(torch.float8_e4m3fn)}), "of F8_E4M3"),
        (lambda t: t.update({"model.embed_tokens.weight": torch.ones(301, 48)}), r"embed_tokens.weight is \(301, 48\)"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(96, 48)}), "num_hidden_layers=2, .* 3"),
        (lambda t: [t.pop(n) for n in list(t) if "layers.1" in n], "num_hidden_layers=2, but the files hold 1 layers"),
        (lambda t: t.update({"model.layers.0.self_attn.o_proj.bias": torch.ones(48)}), "o_proj.bias has no place"),
    ],
)
def test_other_tensors_than_the_model_s_are_refused(tmp_path, change, named):
    save_model(tmp_path, "llama")
    damaged(tmp_path, change)
    with pytest.raises(InputError, match=named):
        read_model(tmp_path)


@torch.no_grad()
def test_copies_and_tables_of_old_files_are_passed_over(tmp_path):
    theirs = save_model(tmp_path, "llama tied")
    copy = {"lm_head.weight": theirs.lm_head.weight.clone(), "model.rotary_emb.inv_freq": torch.ones(6)}
    damaged(tmp_path, lambda t: t.update(copy))
    assert (read_model(tmp_path)(some_tokens()) - theirs(some_tokens()).logits).abs().max() < 1e-4
    check_head(FolderReader(tmp_path), tied=True)


@pytest.mark.parametrize("place", [(0, 0), (299, 47)])
def test_head_that_is_not_the_embedding_it_is_said_to_be_is_refused(tmp_path, place):
    head = save_model(tmp_path, "llama tied").lm_head.weight.detach().clone()
    head[place] += 1e-6
    damaged(tmp_path, lambda t: t.update({"lm_head.weight": head}))
    read_model(tmp_path)  # its file is looked at first
    with pytest.raises(InputError, match=r"lm_head.weight isn't model.embed_tokens.weight.*tie_word_embeddings=true"):
        check_head(FolderReader(tmp_path), tied=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    save_model(tmp_path, "llama")
    damaged(tmp_path, lambda t: t["model.layers.1.mlp.up_proj.weight"][3].fill_(value))
    with pytest.raises(InputError, match=r"model.layers.1.mlp.up_proj.weight holds NaN or infinite weights"):
        read_model(tmp_path)


def test_folder_without_safetensors_is_refused(tmp_path):
    with pytest.raises(InputError, match=SINGLE):
        FolderReader(tmp_path)


def test_broken_file_is_named(tmp_path):
    save_model(tmp_path, "llama", shard="30KB")
    next(tmp_path.glob("model-00002-*.safetensors")).write_bytes(b"broken")
    with pytest.raises(InputError, match="model-00002"):
        read_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (100, 3), (1, 4)])
def test_written_files_are_read_by_safetensors(tmp_path, dtype, shard_bytes, files):
    values = {f"t{n}": torch.randn(shape) for n, shape in enumerate([(3, 5), (7,), (2, 2), (9, 4)])}
    tensors = [Tensor(name, tuple(value.shape), lambda v=value: v.view(-1)) for name, value in values.items()]
    total = write_tensors(tmp_path, tensors, dtype, shard_bytes if dtype == torch.float32 else shard_bytes // 2 or 1)
    paths = sorted(tmp_path.glob("*.safetensors"))
    assert len(paths) == files
    found = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    assert total == sum(tensor.nbytes for tensor in found.values())
    assert found.keys() == values.keys()
    assert all(torch.equal(found[name], value.to(dtype)) for name, value in values.items())
