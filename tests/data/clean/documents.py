"""Documents made by chance, near the bounds of the rules: prose, lists, code, repetition, odd line ends, odd words."""

from __future__ import annotations

import random

COMMON = [
    "the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "it", "is", "was", "for", "on", "as",
    "are", "this", "by", "from", "at", "or", "not", "we", "they", "can",
]  # fmt: skip
NAMES = [
    "system", "river", "Memory", "process", "Table", "window", "harbour", "signal", "letter", "morning",
    "Question", "device", "answer", "people",
]  # fmt: skip
ODD = [
    "don't", "it's", "they'll", "can't", "O'Neil's", "cannot", "gonna", "U.S.", "e.g.", "i.e.", "Dr.", "Mr.",
    "a.m.", "10a.m.", "5km", "3.5GB", "10%", "$20", "US$5", "20€", "https://example.com/a?b=c#d",
    "www.example.org", "file.txt", "user@example.com", "fund-raising", "well-known", "x--y", "a/b/c", "foo_bar",
    "__init__", "#tag", "@name", "(see)", "[1]", "[edit]", "{x}", '"quoted"', "'single'", "“curly”", "‘it’",
    "it’s", "don’t", "—", "–", "…", "...", "..", "end.", "end!", "end?", "end.'", "1,000", "1.5", "v1.2.3",
    "10:30", ":-)", ":)", "^_^", "C++", "a.b", "A.B", "naïve", "café", "Straße", "İstanbul", "₂", "½", "中文",
    "テスト", "javascript", "JavaScript", "cookies", "+1", "-5", "5-6", "2*3", "a=b", "<tag>", "</tag>", "&",
    "&&", "||", "•", "-", "*", "~", "`", "^", "|", '\\', "word.Word", "word,word",
]  # fmt: skip
ENDS = [".", "!", "?", "...", "…", ",", ":", "", "", '"', ".'", " .", "。"]
BREAKS = ["\n", "\n", "\n", "\n\n", "\n\n\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", " \n ", "\t"]
PHRASES = [
    "lorem ipsum dolor",
    "our privacy policy",
    "uses cookies",
    "terms of use",
    "enable javascript",
    "{",
    "Read more",
]

ZH_WORDS = [
    "我们", "的", "年", "在", "月", "是", "和", "日", "了", "有", "被", "人", "中", "为", "他", "也", "而",
    "由", "内核", "系统", "开发", "文档", "处理", "进程", "内存", "管理", "使用", "一个", "这个", "可以",
    "因为", "所以", "如果", "问题", "时候", "中国", "北京", "大学", "学生", "老师", "研究", "技术", "数据",
    "模型", "语言", "训练", "fund-raising", "github.com", "GPL-2.0", "C++", "1.5", "100%", "2003-11-02", "於",
    "為", "與", "後", "他們", "說",
]  # fmt: skip
ZH_ENDS = ["。", "！", "？", "，", "；", "：", "", "…"]


def english_documents(count: int, seed: int = 0) -> list[str]:
    """So many documents: what they are follows from the seed alone."""
    draw = random.Random(seed)
    return ["", " \n ", "...", "word", *(_english(draw) for _ in range(count - 4))]


def _english(draw: random.Random) -> str:
    odd, common, breaks = draw.choice([0.0, 0.03, 0.1, 0.4]), draw.choice([0.3, 0.5, 0.05]), draw.choice([0.02, 0.3, 1])
    sentences = [_sentence(draw, odd, common) for _ in range(draw.choice([2, 6, 12, 25]))]
    pieces: list[str] = []
    for _ in range(draw.choice([3, 8, 20, 40])):
        again = draw.random() < draw.choice([0.0, 0.1, 0.5])
        pieces.append(draw.choice(sentences) if again else _sentence(draw, odd, common))
        pieces.append(draw.choice(BREAKS) if draw.random() < breaks else " ")
    if draw.random() < 0.1:
        pieces = [*pieces, "\n\n"] * draw.choice([2, 3])
        pieces += ["\n\n".join(draw.choice(sentences) for _ in range(3))] * draw.choice([1, 4])
    if draw.random() < 0.05:
        pieces += ["... "] * draw.choice([5, 30, 60])
    if draw.random() < 0.15:
        pieces.insert(draw.randrange(len(pieces)), draw.choice(PHRASES))
    if draw.random() < 0.1:
        mark = draw.choice(["• ", "- ", "# # "])
        pieces = [f"{mark}{piece}" for piece in pieces]
    return "".join(pieces)


def _sentence(draw: random.Random, odd: float, common: float) -> str:
    words = [
        draw.choice(ODD) if draw.random() < odd else draw.choice(COMMON if draw.random() < common else NAMES)
        for _ in range(draw.choice([1, 2, 5, 9, 14, 30]))
    ]
    if draw.random() < 0.02:
        words.append("x" * draw.choice([70, 1001]))
    return draw.choice([" ", " ", " ", "  "]).join(words) + draw.choice(ENDS)


def chinese_documents(count: int, seed: int = 0) -> list[str]:
    """So many documents of Chinese words, with some of other scripts."""
    draw = random.Random(seed)
    return [_chinese(draw) for _ in range(count)]


def _chinese(draw: random.Random) -> str:
    few = draw.sample(ZH_WORDS, draw.choice([8, 20, len(ZH_WORDS)]))
    lines = ["".join(draw.choices(few, k=draw.choice([3, 8, 20]))) + draw.choice(ZH_ENDS) for _ in range(30)]
    count = draw.choice([3, 10, 30])
    return draw.choice(["", "\n", "\n\n", " "]).join(draw.choice(lines) for _ in range(count))
