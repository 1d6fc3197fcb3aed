"""The writer of version 1 of the format, as it was: each rank a safetensors file of fragments, and JSON beside it."""

import json
from dataclasses import asdict

from safetensors.torch import save_file

from trainer.checkpoint.complete import describe
from trainer.checkpoint.folders import folder_of


def write_version_1(run_dir, step, by_rank, **state):
    """The folder of a checkpoint; `by_rank`: the fragments of each rank."""
    folder = folder_of(run_dir, step)
    folder.mkdir(parents=True)
    files = {}
    for rank, fragments in enumerate(by_rank):
        file, name = f"rank-{rank:05d}.safetensors", f"rank-{rank:05d}.json"
        tensors, index = {}, []
        for fragment in fragments:
            region = fragment.region
            for kind, view in fragment.views.items():
                key = f"{kind}:{fragment.parameter}:{region.start}"
                tensors[key] = view.detach().clone()
                index.append(
                    {
                        "parameter": fragment.parameter,
                        "shape": list(region.shape),
                        "slice": asdict(region.slice) if region.slice else None,
                        "start": region.start,
                        "stop": region.stop,
                        "kind": kind,
                        "file": file,
                        "tensor": key,
                    }
                )
        save_file(tensors, folder / file)
        files[file] = describe(folder / file)
        write(folder / name, {"fragments": index, "files": {file: files[file]}})
        files[name] = describe(folder / name)
    write(folder / "state.json", {"format": 1, "step": step, **state})
    files["state.json"] = describe(folder / "state.json")
    write(folder / "COMPLETE", {"files": files})
    return folder


def write(path, content):
    path.write_text(json.dumps(content, indent=1) + "\n")
