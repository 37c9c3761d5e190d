"""Compact files that were tampered with, and whose digests are right again."""

import json
from random import Random
from typing import Any

import numpy as np
import torch
import zstandard
from torch import Tensor

from autocompress.store.pack.bits import BitWriter
from autocompress.store.pack.books import split_tensor, write_book
from autocompress.store.pack.choose import encode_by_all
from autocompress.store.pack.codec import Indices
from autocompress.store.pack.container import (
    DIGEST_BYTES,
    MAGIC,
    make_digest,
    read_container,
    write_container,
)
from autocompress.store.pack.header import BYTES, TENSOR_DIGEST_BYTES
from autocompress.store.pack.lanes import LEAST_LANES, SymbolWriter
from autocompress.store.pack.lz import pack_bytes
from autocompress.store.pack.rans import Rans
from autocompress.store.pack.state import pack_state
from autocompress.store.pack.tables import write_table
from autocompress.store.pack.wire import Writer
from autocompress.store.tensors import DTYPE_NAMES, DTYPES, read_bits

NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 8, 15, 16, 17, 127, 128, 255, 256, 257, 65535, 65536, 2**17, 2**17 + 1,
    2**31, 2**32, 2**39, 2**40, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 0.5, 1e300,
)  # fmt: skip
WORDS = (
    "", "a", "w", "model", "state", BYTES, "adaptive", "bits", "constant", "density", "gaps", "lz",
    "rans", "structured", "huffman", *DTYPES, "complex64", "tensors", "books", "blobs", "meta",
)  # fmt: skip
PARTS = (b"NaN", b"1e999", b"-0", b"1.0", b'"\\ud800"', b"\xff", b" ", b"[" * 300, b'"a":1,')

Forged = tuple[bytes, list[bytes]]


def forge(text: bytes, sections: list[bytes]) -> bytes:
    """Return a file of any header text and sections, its digest right."""
    packed = zstandard.ZstdCompressor(level=1).compress(text)
    writer = Writer()
    writer.raw(MAGIC + bytes([1, 0]))
    writer.sized(packed)
    writer.raw(b"".join(sections))
    data = writer.finish()
    return data + make_digest(data, DIGEST_BYTES)


def open_forged(data: bytes) -> Forged:
    """Return the header text, sizes included, and the sections of a sound file."""
    header, views = read_container(data)
    sections = [bytes(view) for view in views]
    whole = {**header, "sizes": [len(section) for section in sections]}
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode(), sections


def make_state() -> dict[str, Tensor]:
    """Return what a small network holds: every dtype but few, none, one and many values."""
    generator = torch.Generator().manual_seed(0)
    return {
        "conv1.weight": draw(generator, 6, 2, 3, 3, pruned=1.0, step=0.5),
        "conv1.bias": torch.randn(6, generator=generator),
        "bn.running_var": torch.rand(6, generator=generator),
        "bn.num_batches_tracked": torch.tensor(7),
        "fc.weight": draw(generator, 10, 54, pruned=1.5, step=0.3),
        "mask": torch.rand(10, 3, generator=generator) < 0.5,
        "none": torch.zeros(0, 3),
        "half": draw(generator, 20, pruned=0.5, step=0.25).to(torch.bfloat16),
        "same": torch.full((3, 2), -0.0),
    }


def make_small() -> dict[str, Tensor]:
    """Return much the same in few bytes."""
    state = make_state()
    small = {
        "conv1.weight": state["conv1.weight"][:3, :1],
        "fc.weight": state["fc.weight"][:4, :9],
        "conv1.bias": state["conv1.bias"][:2],
        "half": state["half"][:8],
        "mask": state["mask"][:2],
        "none": state["none"],
        "bn.num_batches_tracked": state["bn.num_batches_tracked"],
    }
    return {name: tensor.contiguous() for name, tensor in small.items()}


def draw(generator: torch.Generator, *shape: int, pruned: float, step: float) -> Tensor:
    """Return normal values in steps, those of less than ``pruned`` zero."""
    values = torch.randn(shape, generator=generator)
    return torch.where(values.abs() < pruned, 0.0, (values / step).round() * step)


def make_seeds() -> list[Forged]:
    """Return sound files: one as the encoder writes it, and one of each codec and form."""
    generator = torch.Generator().manual_seed(1)
    state = make_state()
    seeds = [pack_state(state, {"kind": "state", "metrics": {"val_metric": 0.5}})]
    shapes = {
        "t": draw(generator, 12, 30, pruned=1.2, step=0.5),
        "k": draw(generator, 8, 4, 3, 3, pruned=1.6, step=0.4),
    }
    shapes["t"][3:7] = 0
    shapes["t"][:, 5:9] = 0
    for name, tensor in shapes.items():
        seeds += force_codecs(name, tensor)
    seeds += force_codecs("v", draw(generator, 300, pruned=0.1, step=0.01).to(torch.float16))
    free = torch.randn(30, generator=generator)
    seeds += force_codecs("f", free[torch.randint(30, (90,), generator=generator)])
    seeds += force_codecs("thin", draw(generator, 40, 50, pruned=2.2, step=0.3))
    return [open_forged(seed) for seed in seeds]


def force_codecs(name: str, tensor: Tensor) -> list[bytes]:
    """Return one file of a tensor for each codec that applies."""
    found = split_tensor(tensor)
    if found is None:
        return []
    indices, values = found
    book, own = Writer(), Writer()
    own.number(indices.levels)
    own.raw(write_book(values, tensor.dtype))
    book.sized(own.finish())
    bits = read_bits(tensor).tobytes()
    digest, raw = make_digest(bits, TENSOR_DIGEST_BYTES), pack_bytes(bits, tensor.itemsize)
    plain = {"tensors": [[name, DTYPE_NAMES[tensor.dtype], list(tensor.shape)]], "meta": {}}
    own_bytes = {**plain, "books": [-1], "blobs": [[BYTES, [0]]]}
    files = [write_container(own_bytes, [digest, b"", raw])]
    for codec, data in [*encode_by_all(indices).items(), (Rans.name, write_lanes(indices))]:
        header = {**plain, "books": [0], "blobs": [[codec, [0]]]}
        files.append(write_container(header, [digest, book.finish(), data]))
    return files


def write_lanes(indices: Indices) -> bytes:
    """Return codes in 16 lanes, as the encoder writes long ones."""
    bits, writer = BitWriter(), SymbolWriter()
    table = write_table(np.bincount(indices.codes, minlength=indices.levels), bits)
    writer.run(indices.codes, table)
    return bits.finish() + writer.finish(LEAST_LANES)


def mutate(random: Random, file: Forged, other: Forged) -> Forged:
    """Return a file that differs in one to four places, now and then with parts of another."""
    text, sections = file[0], list(file[1])
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        kind = random.random()
        if kind < 0.3:
            text = mutate_header(random, text)
        elif kind < 0.36:
            text = mutate_text(random, text)
        elif kind < 0.4 and other[1]:
            sections = [*sections[:2], *other[1][2:]]
            text = text if random.random() < 0.5 else other[0]
        elif sections:
            place = random.randrange(len(sections)) if kind < 0.5 else len(sections) - 1
            place = max(place, min(1, len(sections) - 1))
            sections[place] = mutate_bytes(random, sections[place])
    return fit_sizes(random, text, sections), sections


def fit_sizes(random: Random, text: bytes, sections: list[bytes]) -> bytes:
    """Return the header text with the true sizes, most often, where it can be read."""
    if random.random() < 0.03:
        return text
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(header, dict):
        return text
    header["sizes"] = [len(section) for section in sections]
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def mutate_header(random: Random, text: bytes) -> bytes:
    """Return the JSON text with one value changed."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return text
    places: list[tuple[Any, Any]] = []
    todo: list[Any] = [header]
    while todo:
        node = todo.pop()
        if not isinstance(node, dict | list):
            continue
        items = list(node.items() if isinstance(node, dict) else enumerate(node))
        places += [(node, key) for key, _ in items]
        todo += [value for _, value in items]
    if not places:
        return text
    node, key = random.choice(places)
    change_value(random, node, key, random.choice(places))
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def change_value(random: Random, node: Any, key: Any, other: tuple[Any, Any]) -> None:
    """Change what ``node`` holds at ``key`` in one of several ways."""
    kind = random.randrange(8)
    old = node[key]
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.insert(key, json.loads(json.dumps(old)))
    elif kind == 2:
        node[key] = json.loads(json.dumps(other[0][other[1]]))
    elif kind == 3 and isinstance(old, int | float):
        node[key] = old + random.choice((-1, 1, old, 0.5))
    elif kind == 4:
        node[key] = random.choice(WORDS)
    elif kind == 5 and isinstance(node, list):
        random.shuffle(node)
    elif kind == 6:
        node[key] = random.choice((None, True, [], {}, [old], {"a": old}, [[0]], [0, 1]))
    else:
        node[key] = random.choice(NUMBERS)


def mutate_text(random: Random, text: bytes) -> bytes:
    """Return text with bytes changed, put in or taken out, whatever they mean."""
    place = random.randrange(len(text) + 1)
    if random.random() < 0.5:
        return text[:place] + random.choice(PARTS) + text[place:]
    return mutate_bytes(random, text)


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """Return bytes with a run changed, put in, taken out, repeated or moved."""
    found, kind = bytearray(data), random.randrange(8)
    place = min(random.randrange(len(found) + 1), random.randrange(len(found) + 1))
    if kind < 3 and found:
        found[place % len(found)] ^= 1 << random.randrange(8)
    elif kind == 3 and found:
        found[place % len(found)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    elif kind == 4:
        found[place:place] = random.randbytes(random.choice((1, 1, 2, 4, 16)))
    elif kind == 5:
        del found[place : place + random.choice((1, 1, 2, 4, 16, len(found)))]
    elif kind == 6:
        found[place:place] = found[place : place + random.choice((1, 2, 8, 64))]
    else:
        found += bytes(random.choice((1, 2, 4, 16)))
    return bytes(found)
