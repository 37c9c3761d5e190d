"""What the papers promise of their formats: upper bounds in bits per weight.

A matrix has n rows, m columns and k distinct values; s n m entries are not zero, with k distinct
non-zero values for the formats that leave zeros out. A Huffman code spends less than one bit per
symbol above the entropy H, which is log2 k at most. Every bound may be had with H for log2 k.

The forms of 2023 (Marino and others, IEEE Access 11, whose code has them) hold for a file without
the starts of the columns, but for ``FRAME_BITS``: the numbers of the shape and the bits that fill
the last word. **They do not hold with the starts** that the parallel product needs, 32 bits a
column. The forms of 2020 (arXiv:2007.07967) charge six words for each value; **the one of sHAC
is wrong as printed**: it charges n + m + 1 words for rows and columns, but each of the s n m
non-zeros has a row number.
"""

import math

FLOAT_BITS = 32
START_BITS = 32  # Of each column, where the bound leaves them out.
FRAME_BITS = 160  # Rows, columns, k, and the longest word's length; less than a word of filling.


def bound_csc(rows: int, columns: int, kept: int) -> float:
    """Return bits per weight of CSC, with a number of rows' width to start each column.

    Args:
        rows: n, 1 or more; here and below.
        columns: m, 1 or more.
        kept: Non-zeros.
    """
    width = index_width(rows)
    return (kept * (FLOAT_BITS + width) + (columns + 1) * width) / (rows * columns)


def bound_index_map(rows: int, columns: int, levels: int) -> float:
    """Return bits per weight of an index map: ceil(log2 k), and the codebook."""
    return max(levels - 1, 0).bit_length() + FLOAT_BITS * levels / (rows * columns)


def bound_hac(rows: int, columns: int, levels: int, entropy: float | None = None) -> float:
    """Return 1 + log2 k + B_k / nm, the bits per weight of HAC without starts.

    Args:
        rows: n.
        columns: m.
        levels: k, zero among them; 1 or more.
        entropy: Of all entries in bits, in place of log2 k.
    """
    return _bound_words(levels, entropy) + table_bits(levels) / (rows * columns)


def bound_shac(
    rows: int, columns: int, kept: int, levels: int, entropy: float | None = None
) -> float:
    """Return s(1 + log2 k + b_I) + b_I (m + 1) / nm + B_k / nm, of sHAC without starts.

    Args:
        rows: n.
        columns: m.
        kept: Non-zeros, s n m.
        levels: k, distinct values other than zero.
        entropy: Of the non-zeros in bits, in place of log2 k.
    """
    width, entries = index_width(rows), rows * columns
    words = kept * (_bound_words(levels, entropy) + width)
    return (words + width * (columns + 1) + table_bits(levels)) / entries


def bound_hac_2020(rows: int, columns: int, levels: int) -> float:
    """Return 1 + log2 k + 6 k b / nm with words of b = 32 bits."""
    return _bound_words(levels, None) + 6 * FLOAT_BITS * levels / (rows * columns)


def bound_shac_2020(rows: int, columns: int, kept: int, levels: int) -> float:
    """Return s(1 + log2 k) + 6 k b / nm + (n + m + 1) b / nm: as printed, and too low."""
    words = kept * _bound_words(levels, None)
    table = 6 * FLOAT_BITS * levels
    return (words + table + (rows + columns + 1) * FLOAT_BITS) / (rows * columns)


def table_bits(levels: int) -> int:
    """Return B_k, the bits of a code of k values: bk + 2 (k - 1) b_k + k b_c.

    The values; first symbols and lengths in numbers up to k; first words, k - 1 bits long at
    most, here never longer than 32.
    """
    if not levels:
        return 0
    word = 8 if levels < 9 else 16 if levels < 17 else 32
    return FLOAT_BITS * levels + 2 * (levels - 1) * index_width(levels) + levels * word


def index_width(most: int) -> int:
    """Return the bits of a machine number up to ``most``: 8, 16 or 32."""
    return 8 if most < 2**8 else 16 if most < 2**16 else 32


def _bound_words(levels: int, entropy: float | None) -> float:
    """Return bits per symbol that no Huffman code of ``levels`` symbols exceeds."""
    if entropy is not None:
        return 1 + entropy
    return 1 + math.log2(levels) if levels else 0.0
