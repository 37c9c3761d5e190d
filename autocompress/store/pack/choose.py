"""All codecs, and the one that makes a tensor smallest."""

from autocompress.store.pack.adaptive import Adaptive
from autocompress.store.pack.bits import PackedBits
from autocompress.store.pack.codec import Codec, Indices
from autocompress.store.pack.constant import Constant
from autocompress.store.pack.density import Density
from autocompress.store.pack.gaps import Gaps
from autocompress.store.pack.lz import Lz
from autocompress.store.pack.rans import Rans
from autocompress.store.pack.structured import Structured

# The numbers stand in files.
_INNER: dict[int, Codec] = {
    0: Constant(),
    1: PackedBits(),
    2: Rans(),
    3: Gaps(),
    4: Density(),
    6: Lz(),
}
CODECS: dict[str, Codec] = {
    codec.name: codec for codec in (*_INNER.values(), Adaptive(), Structured(_INNER))
}

_LARGE = 2**16  # Bytes of a stream that takes time to decode.
_EQUAL = 1000  # One in so many bytes more is as good as equal.
_BY_SPEED = ("constant", "bits", "lz", "gaps", "density", "structured", "rans", "adaptive")


def encode_by_all(indices: Indices, *, slow: bool = True) -> dict[str, bytes]:
    """Return what each codec that applies makes of a tensor, by name.

    Args:
        indices: The tensor.
        slow: Whether the codec that takes microseconds for each entry is asked, too.
    """
    if indices.levels <= 1:
        return {Constant.name: b""}
    asked = {name: one for name, one in CODECS.items() if slow or name != Adaptive.name}
    found = {name: codec.encode(indices) for name, codec in asked.items()}
    return {name: data for name, data in found.items() if data is not None}


def choose_smallest(found: dict[str, bytes]) -> str:
    """Return the name of the smallest; of large ones as good as equal, the fastest to decode.

    Args:
        found: At least one, in the order of :data:`CODECS`.
    """
    least = min(map(len, found.values()))
    limit = least + (least // _EQUAL if least >= _LARGE else 0)
    near = [name for name, data in found.items() if len(data) <= limit]
    if limit == least:
        return near[0]
    return min(near, key=_BY_SPEED.index)
