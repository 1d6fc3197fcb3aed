"""Personal data: found where it was planted, and not where it wasn't."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("numba")
pytest.importorskip("phonenumbers")

from trainer.config.clean import PERSONAL_KINDS, Personal
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.personal.chinese_id import CHECK_DIGITS, WEIGHTS, is_chinese_id
from trainer.data.clean.personal.iban import LENGTHS, is_iban
from trainer.data.clean.personal.span import luhn
from trainer.data.clean.personal_data import PersonalStage

DRAW = random.Random(11)
SENTENCES = ("Please write to {} before noon.", "Kontakt: {}, danke.", "请联系{}谢谢。", "({})", "value={};", "{}")


def mask(text: str, **settings) -> tuple[str, dict[str, int]]:
    document = CleanedDocument(Counted(text, "english"))
    assert PersonalStage(Personal(**settings))(document) is None
    return document.text, dict(document.changes)


def digits(count: int) -> str:
    return "".join(DRAW.choices("0123456789", k=count))


def token(count: int) -> str:
    return "".join(DRAW.choices("abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=count))


def card() -> str:
    first = DRAW.choice(["4", "52", "6011", "3530"]) + digits(15)
    number = first[:15]
    number += next(last for last in "0123456789" if luhn(number + last))
    parts = [number[place : place + 4] for place in range(0, 16, 4)]
    return DRAW.choice(["", " ", "-"]).join(parts)


def chinese_id() -> str:
    birth = f"19{DRAW.randint(50, 99)}{DRAW.randint(10, 12)}{DRAW.randint(10, 28)}"
    first = f"{DRAW.randint(11, 65)}{digits(4)}{birth}{digits(3)}"
    return first + CHECK_DIGITS[sum(w * int(d) for w, d in zip(WEIGHTS, first, strict=True)) % 11]


def iban() -> str:
    country = DRAW.choice(["DE", "FR", "GB", "NL"])
    account = ("ABNA" if country in ("GB", "NL") else digits(4)) + digits(LENGTHS[country] - 8)
    number = next(f"{country}{check:02}{account}" for check in range(2, 99) if is_iban(f"{country}{check:02}{account}"))
    grouped = " ".join(number[place : place + 4] for place in range(0, len(number), 4))
    return DRAW.choice([number, grouped])


PLANTS = {
    "email": lambda: (
        f"{token(6).lower()}.{token(4).lower()}+x@{token(5).lower()}.{DRAW.choice(['com', 'co.uk', 'cn'])}"
    ),
    "phone": lambda: DRAW.choice(
        [
            f"1{DRAW.choice(['38', '59', '86'])}{digits(8)}",
            f"+49 30 {DRAW.choice('2345678')}{digits(7)}",
            f"(212) 55{DRAW.randint(2, 9)}-{digits(4)}",
        ]
    ),
    "chinese_id": chinese_id,
    "ip": lambda: DRAW.choice([f"8.{DRAW.randint(1, 9)}.{DRAW.randint(1, 9)}.77", "2001:4860:4860::8888"]),
    "card": card,
    "iban": iban,
    "key": lambda: DRAW.choice(
        [f"ghp_{token(36)}", f"AKIA{token(16).upper().replace('O', 'X')}", f"sk-{token(40)}", f'token = "{token(24)}9"']
    ),
}
HARMLESS = (
    "2026-11-27 12:33:05", "3.14159265358979", "version 1.2.3", "192.168.1.1", "127.0.0.1", "ISBN 978-3-16-148410-0",
    "4111 1111 1111 1112", "11010519491231002Y", "110105194912310021", "std::vector<int>", "foo@bar", "@decorator",
    "1000 2000 3000", "0x7fffffffe000", "GB82 WEST 1234 5698 7654 31", "password: correct horse battery", "::1",
    "00:1a:2b:3c:4d:5e", "12345678", "1,234,567.89", "page 100-120", "1999 - 2004", "sk-learn", "a = b@c",
)  # fmt: skip


def test_recall_and_precision_on_a_planted_set():
    """What docs/CLEANING.md states."""
    found = dict.fromkeys(PERSONAL_KINDS, 0)
    for kind, plant in PLANTS.items():
        for number in range(100):
            text = SENTENCES[number % len(SENTENCES)].format(plant())
            found[kind] += mask(text)[1].get(f"personal: {kind} masked", 0) == 1
    assert all(count >= 98 for count in found.values()), found
    for text in HARMLESS:
        assert mask(f"see {text} there")[0] == f"see {text} there"


def test_a_placeholder_is_a_function_of_the_match_alone():
    one, other = "a@b.org and c@d.org", "c@d.org and a@b.org"
    assert mask(one)[0] == mask(other)[0] == "<email> and <email>"
    assert mask(one)[1] == {"personal: email masked": 2, "personal: documents masked": 1}


def test_numbers_beside_chinese_characters_are_found():
    assert mask("电话13812345678号，身份证11010519491231002X。")[0] == "电话<phone>号，身份证<chinese-id>。"


def test_only_the_kinds_that_are_named_are_masked():
    assert mask("a@b.org from 8.8.8.8", kinds=["ip"])[0] == "a@b.org from <ip>"


def test_masking_again_changes_nothing():
    text = " ".join(plant() for plant in PLANTS.values())
    assert mask(mask(text)[0])[0] == mask(text)[0]


def test_private_keys_are_masked_whole():
    key = f"-----BEGIN RSA PRIVATE KEY-----\n{token(64)}\n{token(64)}\n-----END RSA PRIVATE KEY-----"
    assert mask(f"x\n{key}\ny")[0] == "x\n<key>\ny"


def test_check_digits():
    assert is_chinese_id("11010519491231002X")
    assert not is_chinese_id("11010519491231003X")
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert is_iban("DE89370400440532013000")
    assert not is_iban("DE89370400440532013001")
