"""Mutations of formats with a structure of their own: tar, .npy, safetensors, packed files."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from functools import cache
from random import Random
from typing import Any

import numpy as np
import zstandard

from tests.fuzz import mutate_bytes, mutate_values, right
from tests.fuzz.mutate_values import Traps

RECORD = 512


# --------------------------------------------------------------------------------------------------------------- tar


def tar_records(content: bytes) -> list[tuple[bytes, bytes]]:
    """Header and padded data of every member."""
    records, at = [], 0
    while at + RECORD <= len(content) and content[at : at + RECORD].strip(b"\0"):
        size = int(content[at + 124 : at + 135].strip(b" \0") or b"0", 8)
        stop = at + RECORD + -(-size // RECORD) * RECORD
        records.append((content[at : at + RECORD], content[at + RECORD : stop]))
        at = stop
    return records


def sealed(header: bytes) -> bytes:
    """The header with the checksum that fits it."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


def record(name: str, content: bytes = b"", **fields: Any) -> list[tuple[bytes, bytes]]:
    """A member, as `tarfile` writes it."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    kind = draw_free(info)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        archive.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return tar_records(out.getvalue())


def draw_free(info: tarfile.TarInfo) -> int:
    """PAX where a header needs it."""
    return tarfile.PAX_FORMAT if info.pax_headers or len(info.name) > 99 else tarfile.USTAR_FORMAT


def mutate_tar(draw: Random, content: bytes, traps: Traps) -> tuple[bytes, str]:
    """A tar with a strange member, header or end."""
    records = tar_records(content)
    if draw.random() < 0.2 or not records:
        return mutate_bytes.mutate(draw, content)
    at = draw.randrange(len(records))
    how = draw.choice(TAR)
    header, data = records[at]
    if how == "field":  # name, mode, size, time, checksum, type, link, magic, prefix
        start, size = draw.choice(
            ((0, 100), (100, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155))
        )
        value = draw.choice(
            (draw.randbytes(size), bytes(size), b"7" * size, b"\x80" + b"\xff" * size, b"-1", b"\xff" * size)
        )
        header = header[:start] + value[:size].ljust(size, b"\0") + header[start + size :]
        records[at] = (sealed(header) if draw.random() < 0.7 else header, data)
    elif how == "size":
        value = draw.choice(
            (b"77777777777\0", b"00000000000\0", b"00000000001\0", b"\x80" + (2**62).to_bytes(11, "big"), b"\xff" * 12)
        )
        records[at] = (sealed(header[:124] + value + header[136:]), data)
    elif how == "drop":
        del records[at]
    elif how == "twice":
        records.insert(at, records[at])
    elif how == "swap":
        other = draw.randrange(len(records))
        records[at], records[other] = records[other], records[at]
    elif how == "pax":
        key = draw.choice(("path", "size", "GNU.sparse.size", "GNU.sparse.realsize", "GNU.sparse.map", "linkpath", "x"))
        value = draw.choice(
            (
                "../../outside/planted",
                "100000000000",
                "-1",
                "0",
                "a" * 70_000,
                "0,1,2",
                "é\ud83d".encode("utf-8", "replace").decode(),
            )
        )
        sparse = (
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s.txt"} if "sparse" in key else {}
        )
        records[at:at] = record("pax.txt", b"pax text", pax_headers={**sparse, key: value})
    elif how == "kind":
        kind = draw.choice(
            (
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.DIRTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
                tarfile.CONTTYPE,
                b"S",
                b"K",
                b"L",
                b"x",
                b"g",
                b"Z",
            )
        )
        records[at] = (sealed(header[:156] + kind + header[157:]), data)
    elif how == "link":
        kind = draw.choice((tarfile.SYMTYPE, tarfile.LNKTYPE))
        records[at:at] = record("link.txt", type=kind, linkname=draw.choice(traps.names)[:99])
    elif how == "name":
        name = draw.choice(
            (
                *traps.names,
                *(text for text in mutate_values.STRINGS if len(text) < 300),
                "2301.00001.txt",
                ".txt",
                "a.b.c.txt",
                "0.TXT",
            )
        )
        encoded = name.encode("utf-8", "replace")[:99]
        records[at] = (sealed(encoded.ljust(100, b"\0") + header[100:]), data)
    elif how == "member":
        name = draw.choice(
            (
                "extra.txt",
                "extra.json",
                "x.tokens.npy",
                "._x.txt",
                "PaxHeader",
                "a" * 200 + ".txt",
                "2301.1.txt",
                "n\n.txt",
            )
        )
        records[at:at] = record(name, draw.choice((b"", b"extra text", b"\xff\xfe", b"a\0b", b"extra text" * 300)))
    elif how == "inner":
        inner, changed = mutate_bytes.mutate(draw, data) if data else (b"", "")
        records[at] = (header, inner[: len(data)].ljust(len(data), b"\0"))
        how = f"inner {changed}"
    body = b"".join(header + data for header, data in records)
    end = draw.choice(
        (b"\0" * 1024, b"\0" * 1024, b"\0" * 1024, b"\0" * 512, b"", b"\0" * 10240, b"\0" * 1024 + b"x" * 512)
    )
    return body + end, f"tar {how}"


TAR = ("field", "field", "size", "drop", "twice", "swap", "pax", "kind", "link", "name", "member", "member", "inner")


# --------------------------------------------------------------------------------------------------------------- npy


def mutate_npy(draw: Random, content: bytes) -> tuple[bytes, str]:
    """An .npy whose header lies, or whose numbers do."""
    if draw.random() < 0.25:
        return mutate_bytes.mutate(draw, content)
    array = np.load(io.BytesIO(content))
    if draw.random() < 0.5 and array.size:
        flat = array.reshape(-1)
        for _ in range(draw.choice((1, 1, 2))):
            at = mutate_bytes.place(draw, flat.size)
            old = int(flat[at])
            new = draw.choice(
                (old + 1, old - 1, old + 2, old + 512, 0, -1, -old, 2**63 - 1, 2**62, -(2**63), old * 2, 1 << 33)
            )
            flat[at] = (
                np.array(new & (2**64 - 1), np.uint64).astype(array.dtype) if array.itemsize == 8 else new & 0xFFFF
            )
        if draw.random() < 0.2 and array.ndim > 1:
            array = array[::-1]
        out = io.BytesIO()
        np.save(out, array)
        return out.getvalue(), "npy numbers"
    shape = draw.choice(
        (
            str(array.shape),
            "(-1,)",
            "(10**9, 6)",
            "(1000000000000, 6)",
            "(2**62, 6)",
            "(9223372036854775807,)",
            "()",
            "(0, 6)",
            "(1.5,)",
            "('a',)",
            "(1,) * 40",
            "(6,)",
            "(" * 200,
            "x",
        )
    )
    descr = draw.choice(
        (
            "'<i8'",
            "'<i8'",
            "'|O'",
            "'<f8'",
            "'>i8'",
            "'<i4'",
            "'<U1000000000'",
            "'|V99999999999'",
            "[('a', '<i8')]",
            "'x'",
            "None",
            "[('" + "a" * 5000 + "','<i8')]",
        )
    )
    order = draw.choice(("False", "True", "7"))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    version = draw.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x04\x00", b"\x00\x00"))
    size = (
        struct.pack("<H", min(len(header), 65535))
        if version[0] < 2
        else struct.pack("<I", draw.choice((len(header), 2**32 - 1)))
    )
    body = content[content.index(b"\n") + 1 :]
    return b"\x93NUMPY" + version + size + header + body, "npy header"


# ------------------------------------------------------------------------------------------------------- safetensors


def mutate_safetensors(draw: Random, content: bytes, traps: Traps) -> tuple[bytes, str]:
    """A safetensors file whose header lies, or whose numbers aren't finite."""
    how = draw.random()
    if how < 0.15:
        return mutate_bytes.mutate(draw, content)
    (size,) = struct.unpack("<Q", content[:8])
    header, body = content[8 : 8 + size], content[8 + size :]
    if how < 0.3:
        length = draw.choice((0, 1, size - 1, size + 1, size + 8, 2**31, 2**62, 2**64 - 1, 100_000_000, 100_000_001))
        return struct.pack("<Q", length) + header + body, "safetensors length"
    if how < 0.45:
        at = mutate_bytes.place(draw, max(1, len(body))) // 4 * 4
        value = struct.pack("<f", draw.choice((float("nan"), float("inf"), 1e38, -1e38, 1e-40, 0.0, 1.0)))
        return content[: 8 + size] + body[:at] + value + body[at + 4 :], "safetensors value"
    tensors = json.loads(header)
    name = draw.choice(sorted(set(tensors) - {"__metadata__"}))
    entry = tensors[name]
    if how < 0.7:
        entry.update(
            draw.choice(
                (
                    {"dtype": draw.choice(("F16", "BF16", "F64", "I32", "BOOL", "F8_E4M3", "X", None, 7, "F4", "C64"))},
                    {
                        "shape": draw.choice(
                            (
                                [],
                                [0],
                                [-1],
                                [2**62, 4],
                                [10**9, 10**9],
                                entry["shape"][::-1],
                                [*entry["shape"], 1],
                                "x",
                                None,
                                [1.5],
                                entry["shape"] * 2,
                            )
                        )
                    },
                    {
                        "data_offsets": draw.choice(
                            (
                                [0, 0],
                                [0, 2**63],
                                [2**63, 2**64],
                                entry["data_offsets"][::-1],
                                [-1, 4],
                                [0],
                                None,
                                [1, 5],
                                [entry["data_offsets"][0], entry["data_offsets"][1] + 4],
                            )
                        )
                    },
                )
            )
        )
        how_called = "safetensors entry"
    elif how < 0.85:
        value = tensors.pop(name)
        tensors[draw.choice((name + "x", "", "lm_head.weight", "model.embed_tokens.weight", *traps.names))] = value
        how_called = "safetensors name"
    else:
        how_called = f"safetensors {mutate_values.change(draw, traps, tensors)}"
    text = mutate_values.write_json(draw, tensors)
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body, how_called


# ------------------------------------------------------------------------------------------------------------ packed


@cache
def zeros(packing: str) -> bytes:
    """64 MB of one letter, packed."""
    content = b"x" * 2**26
    return gzip.compress(content, 9) if packing == ".gz" else zstandard.compress(content, 3)


def mutate_packed(draw: Random, content: bytes, packing: str, traps: Traps) -> tuple[bytes, str]:
    """A packed file of lines: damaged, or of changed lines, or with much more in it than one thinks."""
    how = draw.random()
    if how < 0.3:
        return mutate_bytes.mutate(draw, content)
    if how < 0.38:
        return content + zeros(packing) * draw.choice((1, 16, 64)), "bomb"
    plain = right.unpacked(content, packing)
    if plain is None:  # a bomb already
        return mutate_bytes.mutate(draw, content)
    if how < 0.8:
        plain, changed = mutate_values.mutate_lines(draw, plain, traps)
    else:
        changed = "packed again"
    pack = (lambda part: gzip.compress(part, mtime=0)) if packing == ".gz" else _zstd(draw)
    half = len(plain) // 2
    packed = draw.choice(
        (
            pack(plain),
            pack(plain),
            pack(plain[:half]) + pack(plain[half:]),
            pack(plain) + b"x",
            pack(pack(plain)),
            pack(plain) + bytes(16),
        )
    )
    return packed, changed


def _zstd(draw: Random):
    sized, checked = draw.random() < 0.5, draw.random() < 0.5
    window = draw.choice((None, None, 31 if draw.random() < 0.2 else 27))

    def pack(part: bytes) -> bytes:
        if window is None:
            return zstandard.ZstdCompressor(write_content_size=sized, write_checksum=checked).compress(part)
        # a frame that asks for a large window: magic, descriptor, window descriptor, one raw block
        head = b"\x28\xb5\x2f\xfd\x00" + bytes([(window - 10) << 3])
        return (
            head + (len(part) << 3 | 1).to_bytes(3, "little") + part if len(part) < 2**17 else zstandard.compress(part)
        )

    return pack
