import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.errors import FormatError
from autocompress.store.pack.wire import Reader, Writer

WHOLE = st.integers(0, 2**63 - 1)


@given(numbers=st.lists(WHOLE), signed=st.lists(st.integers(-(2**61), 2**61)), raw=st.binary())
def test_what_is_written_is_read(numbers: list[int], signed: list[int], raw: bytes) -> None:
    writer = Writer()
    for value in numbers:
        writer.number(value)
    for value in signed:
        writer.signed(value)
    writer.sized(raw)
    assert writer.size == len(writer.finish())

    reader = Reader(writer.finish())

    assert [reader.number() for _ in numbers] == numbers
    assert [reader.signed() for _ in signed] == signed
    assert bytes(reader.sized()) == raw
    reader.end()


@given(value=WHOLE)
def test_no_beginning_of_a_number_is_one(value: int) -> None:
    writer = Writer()
    writer.number(value)
    data = writer.finish()

    for size in range(len(data)):
        with pytest.raises(FormatError, match="middle of a number"):
            Reader(data[:size]).number()


@given(data=st.binary(min_size=1, max_size=12))
def test_a_number_is_written_in_one_way(data: bytes) -> None:
    try:
        reader = Reader(data)
        value = reader.number()
    except FormatError:
        return
    writer = Writer()
    writer.number(value)

    assert writer.finish() == data[: len(data) - reader.left]


def test_more_than_allowed_or_there_is_refused() -> None:
    writer = Writer()
    writer.number(1000)
    data = writer.finish()

    with pytest.raises(FormatError, match=r"want a number up to 999, got 1,000"):
        Reader(data).number(999)
    with pytest.raises(FormatError, match="want 3 more bytes, got 2"):
        Reader(data).raw(3)
    with pytest.raises(FormatError, match="2 bytes are left over"):
        Reader(data).end()
    with pytest.raises(ValueError, match="want 0"):
        Writer().number(-1)
    with pytest.raises(ValueError, match="want 0"):
        Writer().number(2**63)
