"""Codes of a tensor of one value, or of none."""

from math import prod

import numpy as np

from autocompress.errors import FormatError
from autocompress.store.pack.codec import Codes, Indices


class Constant:
    """Nothing at all."""

    name = "constant"

    def encode(self, indices: Indices) -> bytes | None:
        """Return no bytes, where every entry has code 0."""
        return None if indices.levels > 1 else b""

    def decode(self, data: memoryview, shape: tuple[int, ...], levels: int) -> Codes:
        """Return the codes; see ``Codec``."""
        entries = prod(shape)
        if len(data) or levels > 1 or (entries and not levels):
            raise FormatError("constant: want no bytes and one level")
        return np.zeros(entries, np.uint16)
