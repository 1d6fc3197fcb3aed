"""Whether this build of torch can use the GPUs that are here: their driver may be older than its CUDA."""

from __future__ import annotations

import torch

from trainer.errors import ConfigError

# The oldest driver for each major version of CUDA (NVIDIA, "CUDA Compatibility", minor-version compatibility)
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}


def require_driver() -> None:
    """ConfigError, in a line, where the driver is too old: DeepSpeed asks NVML alone, which then says that all is well.

    After this, the device can be used.
    """
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(driver_problem(str(torch.version.cuda), str(error))) from error


def driver_problem(cuda: str, error: str) -> str:
    """What is wrong, and what to do, where torch built for CUDA `cuda` refuses the driver, by its own words `error`."""
    major = int(cuda.split(".")[0]) if cuda[:1].isdigit() else 0
    first = error.strip().splitlines()[0] if error.strip() else "no reason given"
    needs = f"driver {OLDEST_DRIVER[major]} or newer" if major in OLDEST_DRIVER else "another driver"
    older = (
        ", or install torch for CUDA 12 (pip install torch --index-url https://download.pytorch.org/whl/cu126)"
        if major > 12
        else ""
    )
    return (
        f"the GPUs here can't be used by torch {torch.__version__} (CUDA {cuda}): {first} It needs {needs}: update "
        f"it{older}, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use the CPU."
    )
