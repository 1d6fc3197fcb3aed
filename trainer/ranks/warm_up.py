"""`python -m trainer.ranks.warm_up`: builds DeepSpeed's CPU op once, so that no run waits for the compiler.

On a GPU it compiles a tiny function instead, by which it is seen whether train.compile can.
"""

import os
import sys

if __name__ == "__main__":
    if not os.path.exists("/dev/nvidiactl"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from trainer.errors import BanyanError
    from trainer.ranks.mesh import join

    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    try:
        mesh = join()
    except BanyanError as error:
        sys.exit(f"banyan: {error}")
    if mesh.device.type == "cuda":
        import torch

        from trainer.machine.c_compiler import compiler_problem

        if problem := compiler_problem():
            print(f"banyan: train.compile won't work: {problem}.")
        else:
            torch.compile(lambda values: values.sin() + 1)(torch.ones(8, device=mesh.device))
    mesh.leave()
    print(f"ready: DeepSpeed on {mesh.device}")
