"""What `banyan serve` answers with, where it listens and what it allows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.encryption import KeyOfData
from trainer.config.guards import Guards
from trainer.config.knobs import knob, part
from trainer.config.launch import Launch
from trainer.config.run import Checkpoint, Run

ENGINES = ("auto", "vllm", "llama_cpp", "torch")
PRECISIONS = ("auto", "f32", "bf16", "f16", "int8", "q8_0", "q4_0")


@dataclass
class ServeSettings(Guards):
    """Section `serve`."""

    engine: str = knob(
        "auto",
        "What computes: vllm (GPUs), llama_cpp (CPUs), or torch, which needs nothing more. auto takes "
        "the first of these that is installed, is for this device and knows the model, and says which.",
        common=True,
        choices=ENGINES,
    )
    precision: str = knob(
        "auto",
        "Of the weights: f32, bf16, f16, int8 (torch), q8_0, q4_0 (llama_cpp). auto is f32 on a CPU, bf16 on a GPU.",
        common=True,
        choices=PRECISIONS,
    )
    name: Optional[str] = knob(
        None, "Name by which clients ask for the model; by default the run's or folder's.", common=True
    )
    host: str = knob("127.0.0.1", "Address to listen at; one that others reach needs serve.keys.", common=True)
    port: int = knob(8000, "Port to listen at.", common=True, low=1, high=65535)
    keys: Optional[str] = knob(
        None, "File of keys, one a line, plain or as `banyan serve hash-key` prints it, a name after it.", common=True
    )
    tls_cert: Optional[str] = knob(
        None, "PEM file of the certificate; with serve.tls_key it serves https.", common=True
    )
    tls_key: Optional[str] = knob(None, "PEM file of its private key.", common=True)
    follow: bool = knob(False, "Go on to the run's newer checkpoints as they appear.", common=True)
    follow_s: float = knob(10.0, "How often a newer checkpoint is looked for.", "seconds", low=0.1)
    slots: int = knob(8, "Answers that are computed at the same time; more wait.", common=True, low=1, high=4096)
    waiting: int = knob(256, "Requests that may wait; more are refused (503).", low=0, high=100000)
    threads: Optional[int] = knob(None, "Threads of the engine; by default the cores that this process may use.", low=1)
    context: Optional[int] = knob(
        None, "Most tokens of a prompt with its answer; by default what the model sees.", low=2
    )
    max_tokens: int = knob(512, "Most tokens of an answer for which a client gives no bound.", "tokens", low=1)
    body_bytes: int = knob(2**20, "Largest request.", "bytes", low=1)
    timeout_s: float = knob(
        30.0, "How long a client may take to send a request, or to read a piece of an answer.", "seconds", low=0.1
    )
    answer_s: float = knob(600.0, "How long an answer may take.", "seconds", low=0.1)
    drain_s: float = knob(60.0, "How long answers may go on after TERM, or on a model that was replaced.", "seconds")
    requests_per_minute: int = knob(0, "Most requests of a key in a minute; 0: any number.", low=0)
    tokens_per_minute: int = knob(0, "Most tokens, asked and answered, of a key in a minute; 0: any number.", low=0)
    log_prompts: bool = knob(False, "Print prompts and answers to the log.")
    scale_up_s: float = knob(
        30.0, "launch=ray, workers=[least,most]: how long more must be asked before another replica starts.", "seconds"
    )
    scale_down_s: float = knob(600.0, "The same: how long less must be asked before one ends.", "seconds")
    vllm_python: Optional[str] = knob(None, "Python of an environment that has vLLM; by default this one's.")
    vllm_arguments: list[str] = knob([], "Further arguments of vLLM's server, such as --tensor-parallel-size=4.")


@dataclass
class Serve:
    """Configuration of `banyan serve`."""

    run: Run = part(Run)
    data: KeyOfData = part(KeyOfData)
    checkpoint: Checkpoint = part(Checkpoint)
    path: Optional[str] = knob(
        None,
        "A Hugging Face folder to serve, in the place of run.dir; without either, the newest run of runs/.",
        common=True,
    )
    chat_template: Optional[str] = knob(
        None, "chatml, or a file of Jinja, in the place of the tokenizer's own.", common=True
    )
    serve: ServeSettings = part(ServeSettings)
    launch: Launch = part(Launch)
