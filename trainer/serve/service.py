"""The model that answers at the moment, and how another takes its place: loaded, checked, switched to."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import Checkpoint, Run
from trainer.config.serve import Serve
from trainer.data.examples.render import Renderer
from trainer.data.examples.template import read_template
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.errors import BanyanError, ConfigError, InputError
from trainer.evaluate.folder_model import context_of, end_tokens_of
from trainer.run.speaker import Speaker
from trainer.serve.choose import check_engine, choose_engine, open_engine
from trainer.serve.drift import Drift
from trainer.serve.energy_counter import EnergyCounter, find_meters
from trainer.serve.engines.engine import Ask, Engine, EngineSettings, Piece
from trainer.serve.metrics import Metrics
from trainer.serve.model_folder import ModelFolder, find_served_model, newest_checkpoint_step
from trainer.serve.moderation import Moderation, open_moderation
from trainer.serve.reference import Reference

LONG_BYTES = 32768  # of a request: some 20 ms of a tokenizer
FIXED_PROMPT = "The quick brown fox jumps over the lazy dog"


@dataclass
class Loaded:
    """A model with its engine, tokenizer and reference. `users` are requests under way."""

    model: ModelFolder
    engine: Engine
    texts: Speaker  # of which only what makes ids is used
    reference: Reference
    context: int
    since: float = field(default_factory=time.time)
    users: int = 0

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        return self.texts.tokenizer


class Service:
    """What the front asks. `name` is what clients call the model, whichever serves."""

    def __init__(self, config: Serve, say: Callable[[str], None]) -> None:
        self.config, self.settings = config, config.serve
        self.say = say
        self.name = config.serve.name or ""
        self.current: Loaded | None = None
        self.draining = False
        self.moderation: Moderation | None = open_moderation(config.serve)
        self.drift: Drift | None = None
        self.metrics: Metrics | None = None
        self._before: tuple[ModelFolder, ...] = ()
        self._old: list[Loaded] = []
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------------------------------------------ answering

    def take(self) -> Loaded:
        """The model for one request, which must be given back."""
        assert self.current is not None
        self.current.users += 1
        return self.current

    def give_back(self, loaded: Loaded) -> None:
        """A request has ended."""
        loaded.users -= 1

    async def answer(self, loaded: Loaded, ask: Ask) -> AsyncGenerator[Piece]:
        """An answer of a model that was taken, bounded in time by serve.answer_s."""
        deadline = time.monotonic() + self.settings.answer_s
        pieces = loaded.engine.answer(ask)
        try:
            while True:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    piece = await anext(pieces)
                yield piece
                if piece.end is not None:
                    return
        finally:
            await pieces.aclose()

    def running(self) -> int:
        """Answers that are computed, by models that are drained as well."""
        return sum(loaded.engine.running() for loaded in self._all())

    def waiting(self) -> int:
        """Answers that wait for a slot."""
        return sum(loaded.engine.waiting() for loaded in self._all())

    def users(self) -> int:
        """Requests under way."""
        return sum(loaded.users for loaded in self._all())

    def _all(self) -> list[Loaded]:
        return [*([self.current] if self.current else []), *self._old]

    # -------------------------------------------------------------------------------------------------------- changing

    async def start(self) -> None:
        """Loads the first model."""
        folder = await in_thread(find_served_model, self.config.run, self.config.checkpoint, self.config.path)
        self.name = self.name or folder.name
        self.metrics = Metrics(self.name, self.running, self.waiting)
        self.metrics.registry.register(EnergyCounter(self.name, find_meters()))
        await self._change_to(folder)
        if self.settings.drift:
            self.drift = Drift(self._nats, self.metrics.registry, self.name)
        if self.settings.follow:
            self._spawn(self._follow())

    def _nats(self, ids: Any) -> float:
        assert self.current is not None
        return self.current.reference.nats(ids)

    async def reload(self, run: Run, checkpoint: Checkpoint, path: str | None) -> str:
        """Puts another model in the place of this one; what was done in a line. BanyanError leaves all as it was."""
        folder = await in_thread(find_served_model, run, checkpoint, path)
        return await self._change_to(folder)

    async def rollback(self) -> str:
        """Puts the model from before the last change back."""
        if not self._before:
            raise ConfigError("there is no model to go back to: none was replaced since this server began.")
        return await self._change_to(self._before[-1], back=True)

    async def _change_to(self, folder: ModelFolder, *, back: bool = False) -> str:
        async with self._changing:
            loaded, line = await self._load(folder)
            old, self.current = self.current, loaded
            if old is not None:
                self._before = self._before[:-1] if back else (*self._before[-7:], old.model)
                self._old.append(old)
                self._spawn(self._drain(old))
                assert self.metrics is not None
                self.metrics.swap()
        self.say(line)
        return line

    async def _load(self, folder: ModelFolder) -> tuple[Loaded, str]:
        loaded, line = await in_thread(self._open, folder)
        try:
            ids = loaded.texts.prompt_ids(FIXED_PROMPT)[: loaded.context - 1]
            worst = await check_engine(loaded.engine, loaded.reference, ids)
        except BaseException:
            await in_thread(loaded.engine.close)
            raise
        return loaded, f"{line}; a fixed prompt's log-probability is within {worst:.1e} nats of the export's"

    def _open(self, folder: ModelFolder) -> tuple[Loaded, str]:
        """In a thread: chooses and loads."""
        settings = self.settings
        tokenizer = load_tokenizer(folder.folder)
        if self.config.chat_template is not None:
            from dataclasses import replace

            template = read_template(self.config.chat_template, "chat_template")
            tokenizer = replace(tokenizer, chat_template=template)
        context = min(context_of(folder.folder), settings.context or 2**30)
        chosen = choose_engine(settings, folder)
        threads = settings.threads or len(os.sched_getaffinity(0))
        wanted = EngineSettings(folder.folder, chosen.precision, context, settings.slots, settings.waiting, threads)
        log = Path(os.environ.get("TMPDIR", "/tmp")) / f"banyan-vllm-{os.getpid()}.log"
        engine, chosen = open_engine(chosen, settings, folder, tokenizer, wanted, log)
        ends = end_tokens_of(folder.folder) | {tokenizer.end_of_text_id}
        texts = Speaker(None, tokenizer, context, ends, {}, as_hugging_face=not folder.own)  # type: ignore[arg-type]
        reference = Reference(folder.folder, tokenizer, context, as_hugging_face=not folder.own)
        step = f", step {folder.step}" if folder.step is not None else ""
        line = f"{folder.name}{step}: engine {chosen.engine} in {chosen.precision} ({chosen.why}), {context:,} tokens"
        return Loaded(folder, engine, texts, reference, context), line

    async def _drain(self, old: Loaded) -> None:
        deadline = time.monotonic() + self.settings.drain_s
        while old.users and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        self._old.remove(old)
        await in_thread(old.engine.close)

    async def _follow(self) -> None:
        refused: int | None = None
        while True:
            await asyncio.sleep(self.settings.follow_s)
            model = self.current.model if self.current else None
            if model is None or model.run_dir is None:
                continue
            try:
                step = await in_thread(newest_checkpoint_step, model.run_dir)
                if step is None or step == refused or step <= (model.step or 0):
                    continue
                refused = step
                await self.reload(Run(dir=str(model.run_dir)), Checkpoint(step=step), None)
            except BanyanError as error:
                self.say(f"a newer checkpoint isn't served: {error}")

    async def drain(self) -> None:
        """No more requests are taken; waits for those under way, serve.drain_s at most."""
        self.draining = True
        deadline = time.monotonic() + self.settings.drain_s
        while self.users() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Ends everything."""
        for task in self._tasks:
            task.cancel()
        if self.drift is not None:
            self.drift.close()
        for loaded in self._all():
            loaded.engine.close()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def beside(size: int, work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` makes of a request's `size` bytes: in a thread if it would hold up everybody else's answers."""
    return work(*arguments) if size < LONG_BYTES else await in_thread(work, *arguments)


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """Runs `work` in a daemon thread, which a process that ends doesn't wait for."""
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = work(*arguments)
        except BaseException as caught:
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="serve-work", daemon=True).start()
    return await done


def renderer_of(loaded: Loaded) -> Renderer:
    """How chats become ids; InputError where the tokenizer has no template."""
    try:
        return loaded.texts.renderer
    except BanyanError as error:
        raise InputError(str(error)) from error
