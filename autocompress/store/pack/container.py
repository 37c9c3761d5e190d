r"""The bytes of an ``.acz`` file: what lies where, and what is checked before anything is read.

    magic 8 | version 1 | flags 1 | size of the header | header
    | sections, one after the other | digest of all that 16

The magic is ``\x89ACZ\r\n\x1a\n``, of PNG's design: it shows a copy that changed line ends or lost
the eighth bit. The header is canonical JSON (sorted keys, no spaces) packed by Zstandard, with the
words that most headers share as its dictionary. ``"sizes"`` in it says how long each section is;
they fill the file exactly.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import zstandard

from autocompress.errors import FormatError
from autocompress.store.pack.lz import unpack_zstd
from autocompress.store.pack.wire import Reader, Writer
from autocompress.store.record import read_json

MAGIC = b"\x89ACZ\r\n\x1a\n"
VERSION = 1
DIGEST_BYTES = 16
MAX_HEADER_BYTES = 2**20  # As Python objects, 100 times as much.

# Part of the format: a change needs another version.
_WORDS = (
    b'"adaptive","bits","constant","density","gaps","lz","planes","rans","raw","structured",'
    b'"bfloat16","float16","float64","int32","bool",'
    b'.running_mean","bn.running_var","norm.num_batches_tracked","features.layer1.0.conv2.weight",'
    b'"downsample.0.bias","classifier.1.weight","layers.columns",'
    b'"model":{"name":"resnet20","options":{}}"model":{"name":"vgg16","options":{"width":'
    b'{"channels":16,"filters":32,"groups":1,"kind":"column_conv","columns":'
    b'{"channels":16,"kind":"norm"},'
    b'"test_metric":0.99,"test_loss":0.03,"val_metric":0.98,"val_loss":0.04,"weights":1000.0,'
    b'{"blobs":[["adaptive",[0,2,4,6]],["raw",[1,3,5,7]]],"books":[0,1,2,3],"meta":{"classes":10,'
    b'"input_shape":[3,32,32],"input_shape":[1,28,28],"input_spec":{"mean":[0.1307],'
    b'"shape":[1,28,28],"std":[0.3081]},"kind":"state","kind":"model","model":{"name":"lenet5",'
    b'"options":{}},"modules":{"conv1":{"channels":1,"filters":20,"groups":1,"kind":"conv"},'
    b'"conv2":{"channels":20,"filters":50,"groups":1,"kind":"conv"},'
    b'"fc1":{"channels":800,"filters":500,"kind":"linear"},'
    b'"fc2":{"channels":500,"filters":10,"kind":"linear"}}},"sizes":[10,20],'
    b'"tensors":[["conv1.weight","float32",[20,1,5,5]],["conv1.bias","float32",[20]],'
    b'["fc1.weight","float32",[500,800]],["fc2.bias","float32",[10]]]}'
)
_DICTIONARY = zstandard.ZstdCompressionDict(_WORDS, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
_LEVEL = 19


def write_container(header: dict[str, Any], sections: Sequence[bytes]) -> bytes:
    """Return the bytes of a file.

    Args:
        header: Plain values; gets the key ``sizes``.
        sections: What follows the header.
    """
    whole = {**header, "sizes": [len(section) for section in sections]}
    text = _write_text(whole)
    packer = zstandard.ZstdCompressor(
        level=_LEVEL,
        dict_data=_DICTIONARY,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    packed = packer.compress(text)
    writer = Writer()
    writer.raw(MAGIC)
    writer.raw(bytes([VERSION, 0]))
    writer.number(len(packed))
    writer.raw(packed)
    for section in sections:
        writer.raw(section)
    data = writer.finish()
    return data + make_digest(data, DIGEST_BYTES)


def read_container(data: bytes | memoryview) -> tuple[dict[str, Any], list[memoryview]]:
    """Return the header and the sections of a file, whose digest is checked first.

    Args:
        data: All bytes of the file; may come from anyone.

    Raises:
        FormatError: They are no ``.acz`` file of this version, or damaged.
    """
    view = memoryview(data).cast("B")
    if bytes(view[: len(MAGIC)]) != MAGIC:
        raise FormatError(_explain_magic(bytes(view[: len(MAGIC) + 1])))
    if len(view) < len(MAGIC) + 2 + DIGEST_BYTES:
        raise FormatError(f"the file ends after {len(view)} bytes, in the middle of its beginning")
    body, digest = view[:-DIGEST_BYTES], view[-DIGEST_BYTES:]
    version, flags = view[len(MAGIC)], view[len(MAGIC) + 1]
    if version != VERSION:
        raise FormatError(
            f"want version {VERSION}, got {version}; another version of autocompress reads it"
        )
    if make_digest(body, DIGEST_BYTES) != digest:
        raise FormatError("damaged or cut off: its content does not match its digest")
    if flags:
        raise FormatError(f"want no flags, got {flags}")
    reader = Reader(body[len(MAGIC) + 2 :])
    header = _read_header(reader)
    sizes = header.pop("sizes", None)
    if not isinstance(sizes, list) or any(type(one) is not int or one < 0 for one in sizes):
        raise FormatError(f"sizes: want a list of whole numbers, got {sizes!r:.80}")
    sections = [reader.raw(size) for size in sizes]
    reader.end()
    return header, sections


def make_digest(data: bytes | memoryview, size: int) -> bytes:
    """Return ``size`` bytes of BLAKE2b: against damage, not against forgery."""
    return hashlib.blake2b(data, digest_size=size).digest()


def _read_header(reader: Reader) -> dict[str, Any]:
    packed_size = reader.number(MAX_HEADER_BYTES)
    text = unpack_zstd(reader.raw(packed_size), MAX_HEADER_BYTES, _DICTIONARY)
    try:
        header = read_json(text)
        canonical = _write_text(header) == text
    except (ValueError, RecursionError) as error:
        raise FormatError(f"header: {error}") from error
    if not canonical:
        raise FormatError(
            "header: want sorted keys, no spaces, and numbers in their shortest form"
        )
    if not isinstance(header, dict):
        raise FormatError(f"header: want an object, got {type(header).__name__}")
    return header


def _write_text(header: Any) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _explain_magic(start: bytes) -> str:
    if MAGIC.startswith(start) and start:
        return f"the file ends after {len(start)} bytes, in the middle of its beginning"
    if start[1:4] == MAGIC[1:4] or start[:3] == MAGIC[1:4]:
        return "an .acz file that was copied as text; copy it again as binary"
    return "no .acz file: it does not begin with the mark of one"
