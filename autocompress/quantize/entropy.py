"""Count the bits that the values and the places of few weights need at least.

Values are counted as an ideal order-0 code does, and places as if every choice of so many weights
were equally likely: log2 C(n, k). Neither is a floor for coders that see more, such as rows of
unlike density, but both are what a simple coder comes close to.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

VALUE_BITS = 32  # Of a value that is stored as it is: weights are float32.


@dataclass(frozen=True, kw_only=True)
class CodedBits:
    """Bits of one tensor's non-zero values; zeros have no value, only places.

    Attributes:
        kept: Entries that are not zero.
        distinct: Different values among them.
        values: Bits of their codes, or of the values themselves where a table does not pay.
        table: Bits of the distinct values; 0 without a table.
        places: log2 of the number of ways to choose as many entries.
    """

    kept: int
    distinct: int
    values: float
    table: float
    places: float


def measure_bits(weight: Tensor) -> CodedBits:
    """Return what the non-zero values of a tensor of any shape cost."""
    flat = weight.detach().reshape(-1)
    chosen = flat[flat != 0]
    counts = torch.unique(chosen, return_counts=True)[1]
    kept, distinct = len(chosen), len(counts)
    values, table = kept * measure_entropy(counts), float(VALUE_BITS * distinct)
    if VALUE_BITS * kept <= values + table:
        values, table = float(VALUE_BITS * kept), 0.0
    return CodedBits(
        kept=kept,
        distinct=distinct,
        values=values,
        table=table,
        places=position_bits(len(flat), kept),
    )


def measure_entropy(counts: Tensor) -> float:
    """Return the bits per symbol of a histogram; 0 of an empty one.

    Args:
        counts: How often each symbol occurs, 0 or more; shape (symbols,).
    """
    shares = counts[counts > 0].double()
    shares = shares / shares.sum()
    return abs(float((shares * shares.log2()).sum()))


def count_distinct(values: Tensor) -> int:
    """Return how many different values other than zero a tensor has; of NaN, each is its own."""
    flat = values.detach().reshape(-1)
    return len(torch.unique(flat[flat != 0]))


def position_bits(entries: int, kept: int) -> float:
    """Return log2 C(entries, kept), the bits to say which ``kept`` of ``entries`` are kept.

    Raises:
        ValueError: ``kept`` is not in 0..entries.
    """
    if not 0 <= kept <= entries:
        raise ValueError(f"kept: want 0..{entries}, got {kept}")
    nats = math.lgamma(entries + 1) - math.lgamma(kept + 1) - math.lgamma(entries - kept + 1)
    return max(0.0, nats / math.log(2))
