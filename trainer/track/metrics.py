"""What is measured, as pure functions: model FLOPs and their utilisation, bits per byte, perplexity, memory."""

from __future__ import annotations

import math
import re

# Dense bf16 tensor-core FLOP/s with fp32 accumulation, from the makers' data sheets (sparsity's factor two taken off).
# A device matches the first entry all of whose words are in its name, so variants stand before their family.
PEAK_BF16: tuple[tuple[frozenset[str], float], ...] = tuple(
    (frozenset(words.split()), flops_per_second)
    for words, flops_per_second in (
        ("GB300", 2500e12),
        ("GB200", 2500e12),
        ("B300", 2250e12),
        ("B200", 2250e12),
        ("GH200", 989.5e12),
        ("H200 NVL", 835.5e12),
        ("H200", 989.5e12),
        ("H100 NVL", 835.5e12),
        ("H100 PCIE", 756.5e12),
        ("H100", 989.5e12),
        ("H800 PCIE", 756.5e12),
        ("H800", 989.5e12),
        ("H20", 148e12),
        ("A100", 312e12),
        ("A800", 312e12),
        ("A40", 149.7e12),
        ("A30", 165e12),
        ("A10G", 70e12),
        ("A10", 125e12),
        ("L40S", 362e12),
        ("L40", 181e12),
        ("L4", 121e12),
        ("RTX 6000 ADA", 364e12),
        ("RTX 5090", 209.5e12),
        ("RTX 5080", 112.6e12),
        ("RTX 5070 TI", 87.9e12),
        ("RTX 5070", 61.7e12),
        ("RTX 4090", 165.2e12),
        ("RTX 4080 SUPER", 104.4e12),
        ("RTX 4080", 97.5e12),
        ("RTX 4070 TI SUPER", 88.2e12),
        ("RTX 4070 TI", 80.2e12),
        ("RTX 4070 SUPER", 71e12),
        ("RTX 4070", 58.3e12),
        ("RTX 4060 TI", 44.1e12),
        ("RTX 4060", 30.2e12),
        ("RTX 3090 TI", 80e12),
        ("RTX 3090", 71e12),
        ("RTX 3080 TI", 68.2e12),
        ("RTX 3080", 59.5e12),
        ("RTX 3070 TI", 43.5e12),
        ("RTX 3070", 40.6e12),
        ("RTX 3060 TI", 32.4e12),
        ("RTX 3060", 25.5e12),
        ("MI355X", 2516e12),
        ("MI325X", 1307.4e12),
        ("MI300X", 1307.4e12),
    )
)


def flops_per_token(*, parameters: int, layers: int, heads: int, head_dim: int, sequence_length: int) -> float:
    """Model FLOPs of forward and backward, per token: 6N + 12·L·H·Q·T (PaLM, arXiv:2204.02311, appendix B).

    6N: a multiplication and an addition per parameter, once forward and twice backward. 12·L·H·Q·T: queries times keys
    and weights times values over the whole sequence; that causal attention needs only half of it is *not* taken off.
    Recomputed activations don't count.
    """
    return 6.0 * parameters + 12.0 * layers * heads * head_dim * sequence_length


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a device as torch.cuda.get_device_name() calls it; None for a CPU or an unknown device.

    A slice of a GPU (MIG) and a laptop's GPU have their family's name but not its speed: None as well.
    """
    words = set(re.split(r"[^A-Z0-9]+", device_name.upper()))
    if words & {"MIG", "LAPTOP"}:
        return None
    return next((flops for needed, flops in PEAK_BF16 if needed <= words), None)


def mfu(*, tokens_per_second: float, flops_per_token: float, peak_flops_per_second: float) -> float:
    """Model FLOPs utilisation in [0, 1] (PaLM, appendix B): achieved over peak, the peak summed over all devices."""
    return tokens_per_second * flops_per_token / peak_flops_per_second


def bits_per_byte(*, nats_per_token: float, tokens: int, text_bytes: int) -> float:
    """A loss independent of the tokenizer: nats over all tokens, in bits, per UTF-8 byte of the text they encode."""
    return nats_per_token * tokens / (math.log(2) * text_bytes)


def perplexity(nats_per_token: float) -> float:
    """e^loss; infinite where that overflows a float."""
    try:
        return math.exp(nats_per_token)
    except OverflowError:
        return math.inf


def memory_bytes(cuda_peak_bytes: int | None = None) -> int:
    """Memory in use: the device's peak (torch.cuda.max_memory_allocated()) where given, else this process's RSS."""
    if cuda_peak_bytes is not None:
        return cuda_peak_bytes
    import psutil

    return psutil.Process().memory_info().rss
