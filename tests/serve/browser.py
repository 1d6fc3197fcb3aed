"""Chromium without a window, driven over its DevTools protocol: what a person sees of a page, and types into it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"Enter": (13, "\r"), "Escape": (27, ""), "Tab": (9, "")}
KEYS |= {name: (35 + place, "") for place, name in enumerate(("End", "Home", "ArrowLeft", "ArrowUp", "ArrowRight"))}
KEYS["ArrowDown"] = (40, "")
START_S = 60.0


class Browser:
    """One tab. What the page complains about (console errors, refusals of its policy) is in `complaints`."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=START_S))
            self._hear(message)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def _hear(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(message["params"]["exceptionDetails"])[:500])
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, address: str) -> None:
        """Goes there and waits until the page is loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def wait(self, condition: str, timeout_s: float = 30.0) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + timeout_s
        while not self.run(f"!!({condition})"):
            assert time.monotonic() < end, f"never true: {condition}\n{self.text()}\n{self.complaints}"
            time.sleep(0.05)

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("document.body.innerText"))

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Presses a key and lets it go."""
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def show_as(self, *, width: int = 1100, height: int = 800, dark: bool = False) -> None:
        """The window's size in CSS pixels, and the scheme of colours that its user prefers."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> Path:
        """What is seen, as a PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return file


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A tab of a new Chromium whose profile is in `folder`. Skips where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here: install the package chromium")
    from websockets.sync.client import connect

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    where = [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen([program, *options, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _port(process, folder / "profile" / "DevToolsActivePort")
        with connect(_tab(port), max_size=None, open_timeout=START_S) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(20)


def _port(process: subprocess.Popen, file: Path) -> int:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().split()[0])
        time.sleep(0.05)
    raise AssertionError("Chromium doesn't start")


def _tab(port: int) -> str:
    import urllib.request

    end = time.monotonic() + START_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, StopIteration):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        time.sleep(0.05)
    raise AssertionError("Chromium has no tab")
