"""How long a compact file takes to load, beside safetensors and zstd.

    python experiments/storage/load.py FOLDER --vgg19 FILE --resnet20 FILE

Writes its files into FOLDER. All ways take turns in one process, after imports and one turn that
does not count; files are in the page cache. Milliseconds, median and quartiles.
"""

import argparse
import io
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import quantiles

import torch
import zstandard
from safetensors.torch import load, load_file, save
from torch import Tensor
from train_vgg import prune

from autocompress.quantize.sharing import Means, share_values
from autocompress.store.pack.model import pack, unpack


def quantise(weight: Tensor, pruned: float, levels: int) -> Tensor:
    """Return a weight of so many values, zero among them."""
    kept = prune(weight, pruned) if pruned else torch.ones_like(weight, dtype=torch.bool)
    return share_values([weight], Means(levels=levels - 1), kept=[kept]).values[0]


def list_states(vgg: Path | None, resnet: Path | None) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each file."""
    draws = torch.Generator().manual_seed(0)
    free = torch.randn(1024, 1024, generator=draws)
    found = {"1,048,576 random weights, k = 256": {"weight": quantise(free, 0, 256)}}
    if vgg is not None:
        state = load_file(vgg)
        names = [f"features.{place}.weight" for place in (43, 46, 49)]
        found["three convolutions of VGG-19, 85 % pruned"] = {n: state[n] for n in names}
    if resnet is not None:
        state = load_file(resnet)
        found["ResNet-20, 90 % pruned, k = 32"] = {
            name: quantise(one, 0.9, 32) if one.ndim > 1 else one for name, one in state.items()
        }
    return found


def list_ways(
    state: Mapping[str, Tensor], path: Path
) -> dict[str, tuple[int, Callable[[], object]]]:
    """Write the tensors in each way; return bytes and what reads them."""
    pack(state, path.with_suffix(".acz"))
    plain = save(dict(state))
    path.with_suffix(".safetensors").write_bytes(plain)
    path.with_suffix(".zst").write_bytes(zstandard.ZstdCompressor(level=19).compress(plain))
    readers: dict[str, Callable[[Path], object]] = {
        ".acz": unpack,
        ".safetensors": load_file,
        ".zst": _unzip,
    }
    return {
        suffix: (path.with_suffix(suffix).stat().st_size, partial(read, path.with_suffix(suffix)))
        for suffix, read in readers.items()
    }


def _unzip(path: Path) -> object:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())) as stream:
        return load(stream.read())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vgg19", type=Path)
    parser.add_argument("--resnet20", type=Path)
    parser.add_argument("--turns", type=int, default=15)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    print("| tensors | way | bytes | ms | of CPU |\n|---|---|---|---|---|")
    for number, (name, state) in enumerate(list_states(flags.vgg19, flags.resnet20).items()):
        ways = list_ways(state, flags.folder / f"load{number}")
        walls: dict[str, list[float]] = {suffix: [] for suffix in ways}
        cpus: dict[str, list[float]] = {suffix: [] for suffix in ways}
        for turn in range(flags.turns + 1):
            for suffix, (_, read) in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                read()
                if turn:
                    cpus[suffix].append(1000 * (time.process_time() - cpu))
                    walls[suffix].append(1000 * (time.perf_counter() - wall))
        for suffix, (size, _) in ways.items():
            low, middle, high = quantiles(walls[suffix], n=4)
            own = quantiles(cpus[suffix], n=4)[1]
            wall = f"{middle:.1f} ({low:.1f}-{high:.1f})"
            print(f"| {name} | {suffix} | {size:,} | {wall} | {own:.1f} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
