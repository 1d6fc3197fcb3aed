"""A mixed corpus with faults planted in it, of which is known what has to become of each.

English texts, Chinese ones, code and a crawl; behind them, in each kind of file, copies, near copies, mojibake,
personal data, keys, questions of an evaluation set, boilerplate and broken records.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.data.text.formats import page, record, response

SOURCES = ("english", "chinese", "code", "web")
STAGES = ["mojibake", "unicode", "gopher_repetition", "contamination", "personal"]
WORDS = [
    first + second
    for first in ("stone", "river", "light", "paper", "glass", "winter", "copper", "harbour", "meadow", "lantern")
    for second in ("", "s", "ed", "ing", "side", "work", "land", "fall", "house", "keeper")
]
HAN = "春眠不觉晓处闻啼鸟夜来风雨声花落知多少床前明月光疑是地上霜举头望低思故乡白日依山尽黄河入海流欲穷千里目更上一层楼"
SECRETS = {
    "email": "maria.ruiz@harbour-works.org",
    "phone": "+49 30 23125431",
    "chinese_id": "11010519491231002X",
    "ip": "8.8.4.77",
    "card": "4111 1111 1111 1111",
    "iban": "DE89370400440532013000",
    "key": "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
}
"""By kind of data.clean.personal, each of which is found in any surroundings."""
NOTICES = {
    "english": "All rights reserved. No part of these pages may be copied without a word from the ferry's office.",
    "chinese": "版权所有，未经港务局书面许可，任何人不得以任何方式转载、复制或者引用本网站的全部内容。",
    "web": "We value your privacy: by staying with us you agree that biscuits are stored in your own kitchen.",
}
QUESTION = (
    "A farmer has seventeen sheep and all but nine of them run away during the storm so how many sheep does the "
    "farmer still have when the morning comes"
)
CHROME = ("Front door", "About the harbour club", "Accept all 47 biscuits", "Subscribe to our ferry letter")
MENU = "".join(f"<li><a href='/{place}'>{word}</a></li>" for place, word in enumerate(CHROME))


@dataclass(frozen=True)
class Plant:
    """A document that was planted: where it is, as `banyan data why` names it, and what that has to say of it."""

    kind: str
    id: str
    fate: str  # a regular expression


@dataclass
class Corpus:
    """Files, and what has to become of what was planted in them."""

    folder: Path
    plants: list[Plant] = field(default_factory=list)
    rejected: Counter[str] = field(default_factory=Counter)  # documents, by reason
    masked: Counter[str] = field(default_factory=Counter)  # personal data, by kind
    repaired: list[str] = field(default_factory=list)  # what mojibake has to have become
    absent: list[str] = field(default_factory=list)  # what no shard may hold

    def inputs(self) -> list[Path]:
        """What prepare reads, in this order."""
        return [self.folder / name for name in SOURCES]


@dataclass(frozen=True)
class Texts:
    """What the corpus is made of, before anything is planted in it."""

    english: list[str]
    chinese: list[str]
    code: list[str]
    web: list[str]


def made_texts(count: int, *, seed: int = 0) -> Texts:
    """Texts by chance, none of them near to another, and modules of the standard library."""
    draw = random.Random(seed)
    english = ["\n\n".join(_english(draw) for _ in range(3)) for _ in range(count)]
    chinese = ["\n\n".join("".join(draw.choices(HAN, k=60)) + "。" for _ in range(3)) for _ in range(count)]
    web = ["\n\n".join(_english(draw) for _ in range(4)) for _ in range(count)]
    return Texts(english, chinese, standard_library(min(count, 12), most_bytes=12_000), web)


def _english(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(40, 60))).capitalize() + "."


def standard_library(count: int, *, most_bytes: int) -> list[str]:
    """Modules of the standard library, of at least a thousand bytes."""
    files = sorted(Path(json.__file__).parents[1].glob("*.py"))
    texts = [file.read_text() for file in files if 1000 < file.stat().st_size < most_bytes]
    return texts[:: max(1, len(texts) // count)][:count]


def evaluation_set(path: Path) -> Path:
    """The evaluation set that questions are from."""
    path.write_text(json.dumps({"question": QUESTION, "answer": "9"}) + "\n")
    return path


def write_corpus(folder: Path, texts: Texts, *, planted: bool = True) -> Corpus:
    """Writes the texts, and if `planted` the plants behind them, each time the same."""
    corpus = Corpus(folder)
    for name in SOURCES:
        (folder / name).mkdir(parents=True)
    english = _plant(corpus, "english.jsonl", texts.english, "english") if planted else []
    chinese = _plant(corpus, "chinese.jsonl", texts.chinese, "chinese") if planted else []
    web = _plant(corpus, "crawl.warc.gz", texts.web, "web") if planted else []
    _write_lines(corpus, "english", [*texts.english, *english], planted)
    _write_lines(corpus, "chinese", [*texts.chinese, *chinese], planted)
    _write_crawl(corpus, [*texts.web, *web], planted)
    _write_code(corpus, texts, planted)
    return corpus


def _plant(corpus: Corpus, file: str, texts: list[str], kind: str) -> list[str]:
    """Texts with the plants that any kind of file can hold; they come after `texts` in `file`."""
    found: list[str] = []

    def plant(what: str, text: str, fate: str) -> None:
        corpus.plants.append(Plant(f"{kind}: {what}", f"{file}:{len(texts) + len(found)}", fate))
        found.append(text)

    copied, near, longer, *others = texts[1:20]
    plant("exact duplicate", copied, rf"the same text as {file}, record 1: in ")
    plant("near-duplicate", near[:-12] + near[-1], rf"nearly the same as {file}, record 2, which stays; 2 such")
    plant("longer near-duplicate", f"{longer} {longer[:20]}", r": as it was by cleaning; .*: in .*, tokens ")
    corpus.plants.append(Plant(f"{kind}: shorter original", f"{file}:3", "nearly the same as .*, which stays; 2 such"))
    corpus.rejected.update({"duplicate": 1, "near_duplicate": 2})
    whole = " ".join(f"“{others[0][:150]}” — {others[1][100:250]} café, naïve".split())
    plant("mojibake", _broken(whole), r"changed by cleaning; .*: in ")
    corpus.repaired.append(whole)
    for name, secret in SECRETS.items():
        around = _part(others, len(found)), _part(others, len(found) + 7)
        plant(f"personal data, {name}", f" {secret} ".join(around), r"changed by cleaning; .*: in ")
        corpus.masked[name] += 1
        corpus.absent.append(secret)
    notice = NOTICES[kind]
    for number in range(3):
        again = rf"; 1 of 2 paragraphs \(.*the first in {re.escape(file)}, record {len(texts) + len(found) - number}"
        own = " ".join(_part(others, 20 + 9 * number + part) for part in range(5))
        plant("paragraph", f"{own}\n\n{notice}", again if number else ": as it was .*: in ")
    plant("nothing but boilerplate", notice.upper(), r"rejected by repeated_paragraphs\.document")
    corpus.rejected["repeated_paragraphs.document"] += 1
    plant("benchmark text", f"{_part(others, 3)} {QUESTION}? {_part(others, 4)}", r"rejected by contamination\.")
    repeated = f"{_part(others, 5)}\n\n" + f"{_part(others, 6)[:40]}\n\n" * 12
    plant("repeated lines", repeated, r"rejected by gopher_repetition\.duplicate_lines")
    corpus.rejected.update({"contamination.share": 1, "gopher_repetition.duplicate_lines": 1})
    corpus.absent.append(QUESTION)
    return found


def _part(texts: list[str], number: int) -> str:
    """Some of a text, so that what is made of it is near to nothing else."""
    text = texts[number % len(texts)]
    start = 17 * number % max(1, len(text) - 70)
    return text[start : start + 70].replace("\n", " ")


def _broken(text: str) -> str:
    """UTF-8 that was read as Windows' code page 1252, as browsers do it."""
    return "".join(bytes([byte]).decode("cp1252", "replace").replace("\ufffd", chr(byte)) for byte in text.encode())


def _write_lines(corpus: Corpus, kind: str, texts: Iterable[str], planted: bool) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    if planted:
        for reason, line in (
            ("bad_json", '{"text": "it was never'),
            ("no_text_field", json.dumps({"title": "no text at all"})),
            ("empty", json.dumps({"text": " \n\t"})),
        ):
            corpus.rejected[reason] += 1
            lines.append(line)
    (corpus.folder / kind / f"{kind}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_crawl(corpus: Corpus, texts: list[str], planted: bool) -> None:
    """A crawl whose pages have a menu; at its end a record that is cut."""
    records = [record(b"software: test\r\n", "warcinfo", "application/warc-fields")]
    records += [response(_page(text)) for text in texts]
    packed = b"".join(map(gzip.compress, records))
    if planted:
        corpus.absent += CHROME
        corpus.rejected["bad_record"] += 1
        packed += gzip.compress(response(_page(texts[0])))[:-200]
    (corpus.folder / "web" / "crawl.warc.gz").write_bytes(packed)


def _page(text: str) -> bytes:
    """A page of the text between a menu and a footer."""
    around = f"<nav><ul>{MENU}</ul></nav>".encode()
    return page(text, menu=False).replace(b"<body>", b"<body>" + around).replace(b"</body>", around + b"</body>")


def _write_code(corpus: Corpus, texts: Texts, planted: bool) -> None:
    folder = corpus.folder / "code"
    for number, text in enumerate(texts.code):
        (folder / f"module_{number:04d}.py").write_text(text)
    if not planted:
        return
    original = texts.code[0]
    keys = f"# {SECRETS['email']}\n{texts.code[1][:600]}\nsecret = '{SECRETS['key']}'\n"
    for name, content, fate in (
        ("z_copy.py", original.encode(), r"the same text as module_0000\.py, record 0: in "),
        ("z_near.py", original[:-40].encode(), r"nearly the same as module_0000\.py, record 0"),
        ("z_keys.py", keys.encode(), r"changed by cleaning; .*: in "),
        ("z_broken.py", original.encode("utf-16")[3:], None),
        ("z_blank.py", b"\n\n  \n", None),
    ):
        (folder / name).write_bytes(content)
        if fate is not None:
            corpus.plants.append(Plant(f"code: {name}", f"{name}:0", fate))
    corpus.rejected.update({"duplicate": 1, "near_duplicate": 1, "undecodable": 1, "empty": 1})
    corpus.masked.update({"email": 1, "key": 1})


# ------------------------------------------------------------------------------------------------------- real texts


def real_texts() -> Texts:
    """Texts of tests/peers/corpora.sh and the standard library: some 2,700 documents, 23 MB."""
    script = Path(__file__).parent / "peers" / "corpora.sh"
    corpora = Path(subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    manuals = [_unpacked(path) for path in sorted((corpora / "linux-doc").rglob("*.rst.gz"))]
    manuals = [text for text in manuals if len(text) > 1500]
    english, web = manuals[:1500], manuals[1500:2000]
    poems: list[str] = []
    for path in sorted((corpora / "poetry/dist/quantangshi").glob("poet.song.*.json"))[:6]:
        poems += ["\n".join([poem["title"], *poem["paragraphs"]]) for poem in json.loads(path.read_text())]
    chinese = ["\n\n".join(poems[first : first + 10]) for first in range(0, 6000, 10)]
    code = standard_library(300, most_bytes=200_000)
    return Texts(_plain_first(english), _plain_first(chinese), _plain_first(code), _plain_first(web))


def _unpacked(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode()


def _plain_first(texts: list[str]) -> list[str]:
    """The texts, those first in which nothing looks like personal data: plants are made of these."""
    return sorted(texts, key=lambda text: re.search(r"@|\d{5}|\d\.\d+\.\d|::|token|key", text) is not None)


# ---------------------------------------------------------------------------------------------------------- prepare


def overrides(corpus: Corpus, evaluation: Path, output: Path) -> list[str]:
    """What is typed after `banyan prepare`."""
    repetition = "data.clean.gopher_repetition"
    off = [f"top_{size}_gram" for size in (2, 3, 4)] + [f"repeated_{size}_grams" for size in range(5, 11)]
    off += ["duplicate_line_characters", "duplicate_paragraphs", "duplicate_paragraph_characters"]
    return [
        *(f"data.sources.{name}.input={corpus.folder / name}" for name in SOURCES),
        f"data.output={output}",
        f"data.clean.stages=[{','.join(STAGES)}]",
        "data.clean.words=characters",
        f"data.clean.contamination.files=[{evaluation}]",
        f"{repetition}.duplicate_lines=0.7",
        *(f"{repetition}.{rule}=null" for rule in off),
        "data.near_duplicates=true",
        "data.rehydrate={1:1,2:2}",
        "data.repeated_paragraphs=true",
        "data.validation_fraction=0.1",
        "data.tokenizer.train.vocab_size=400",
        "data.shard_bytes=50000",
        "data.block_tokens=4000",
    ]
