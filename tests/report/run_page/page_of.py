"""A page read as a browser's parser reads it, and opened by one."""

import html.parser
import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Elements(html.parser.HTMLParser):
    """Every element with its attributes, the text between them, and what is in scripts."""

    def __init__(self, page):
        super().__init__()
        self.found, self.texts, self.scripts, self._open = [], [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "input", "img", "br", "hr"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self._open[-1:] == ["script"] else self.texts).append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self):
        return json.loads(self.scripts[0])


def open_in_chromium(page, folder, *, query=""):
    """The DOM that a browser has of a page in the end, and what it complained of."""
    command = [
        *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
        *(f"--user-data-dir={folder / 'chromium'}", "--timeout=20000", f"file://{page}{query}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, complaints


def drawn_after_ms(dom):
    """When the page's script had drawn, in milliseconds since the page was asked for."""
    return int(re.search(r'data-drawn="(\d+)"', dom)[1])
