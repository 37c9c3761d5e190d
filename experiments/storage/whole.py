"""What lies in a compact file, part by part, and how well its VGG-19 does: whole.py FILE.

python experiments/storage/whole.py FILE.acz                       # bytes by part
python experiments/storage/whole.py FILE.acz --state S --data ROOT  # packs S first, tests it
"""

import argparse
import time
from collections import Counter
from pathlib import Path

from safetensors.torch import load_file
from train_vgg import open_mnist, score
from vgg import vgg19

from autocompress.store.pack.header import open_header
from autocompress.store.pack.model import pack, unpack
from autocompress.store.pack.state import split_books


def list_parts(path: Path) -> dict[str, int]:
    """Return the bytes of each part of a file; their sum is the file."""
    data = path.read_bytes()
    header, sections = open_header(data)
    kinds = [kind_of(name, shape) for name, _, shape in header.tensors]
    parts: Counter[str] = Counter()
    parts["digests of tensors"] = len(sections[0])
    books = split_books(sections[1], header.books)
    for number, book in enumerate(books):
        parts[f"books, {kinds[header.books.index(number)]}"] += len(book)
    parts["sizes of books"] = len(sections[1]) - sum(len(book) for book in books)
    for (codec, members), blob in zip(header.blobs, sections[2:], strict=True):
        owners = ", ".join(sorted({kinds[one] for one in members}))
        parts[f"{codec}, {owners}"] += len(blob)
    frame = 8 + 2 + 16
    parts["magic, version, flags, digest of the file"] = frame
    parts["header"] = len(data) - sum(len(section) for section in sections) - frame
    return dict(parts)


def kind_of(name: str, shape: list[int]) -> str:
    """Return what kind of tensor this is."""
    if len(shape) == 4:
        return "convolutions"
    if len(shape) == 2:
        return "linear"
    return "norms" if name.startswith("features") else "biases"


def main() -> None:
    """Print the parts, and the accuracy where there is something to test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--state", type=Path)
    parser.add_argument("--data", default="")
    flags = parser.parse_args()
    if flags.state:
        started = time.perf_counter()
        pack(load_file(flags.state), flags.file)
        print(f"packed in {time.perf_counter() - started:.0f} s")
    started = time.perf_counter()
    state = unpack(flags.file)
    print(f"unpacked in {time.perf_counter() - started:.2f} s")
    whole = sum(tensor.nbytes for tensor in state.values())
    size = flags.file.stat().st_size
    print(f"file: {size:,} bytes, {100 * size / whole:.3f} % of {whole:,}")
    dense: Counter[str] = Counter()
    for name, tensor in state.items():
        dense[kind_of(name, list(tensor.shape))] += tensor.nbytes
    print("dense:", dict(dense))
    for part, count in list_parts(flags.file).items():
        print(f"| {part} | {count:,} |")
    if flags.data:
        model = vgg19((1, 32, 32), 10)
        model.load_state_dict(state)
        hits = score(model, open_mnist(flags.data, "test", slice(None)))
        print(f"test accuracy: {100 * hits:.2f} %")


if __name__ == "__main__":
    main()
