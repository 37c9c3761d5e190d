import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.jobs import Candidate, Stage
from autocompress.search.book import Book
from autocompress.search.records import Record

STAGES: tuple[Stage, ...] = ("fast", "round", "full")


@st.composite
def lists_of_records(draw: st.DrawFn) -> list[Record]:
    records = []
    for seq in range(draw(st.integers(0, 12))):
        kept = Candidate(filters={"a": draw(st.integers(1, 4))}, columns={})
        metrics = {"seconds": draw(st.sampled_from([1.0, 2.5, math.nan]))}
        records.append(
            Record(
                seq=seq,
                number=seq,
                key=kept.key(),
                stage=draw(st.sampled_from(STAGES)),
                round=draw(st.integers(0, 1)),
                candidate=kept,
                energy=draw(st.sampled_from([0.5, 0.7, math.nan])),
                source=draw(st.sampled_from(["", "other/3"])),
                metrics=draw(st.sampled_from([metrics, {}])),
            )
        )
    return records


@given(lists_of_records())
def test_what_is_found_is_what_a_search_of_all_records_finds(records: list[Record]) -> None:
    book = Book(records[: len(records) // 2])
    for record in records[len(records) // 2 :]:
        book.add(record)

    assert list(book.records) == records
    assert len(book) == len(records)
    for number in (0, 1, 2):
        scored = [one for one in records if (one.round, one.stage) == (number, "fast")]
        assert list(book.find(number, "fast")) == scored
        assert book.list_known(number) == {one.candidate.key() for one in scored}
        assert book.count_asked(number) == sum(not one.source for one in scored)
    for key in {one.key for one in records}:
        good = [one for one in records if one.key == key and math.isfinite(one.energy)]
        found = book.find_result(key)
        assert (found.energy if found else None) == (good[0].energy if good else None)
    for stage in STAGES:
        times = [one.metrics.get("seconds", math.nan) for one in records if one.stage == stage]
        finite = [time for time in times if math.isfinite(time)]
        mean = sum(finite) / len(finite) if finite else None
        assert book.measure_seconds(stage) == (mean if mean is None else pytest.approx(mean))
