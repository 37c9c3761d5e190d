"""Who is to blame: laws without Ray."""

import random

import pytest

from autocompress.execute.ray_ward import Ward

NODES = ("a", "b", "c", "d")


def admit(ward: Ward, node: str, key: str, text: str = "the disk is full") -> bool:
    return ward.admit(node, key, text, lambda nodes: not nodes >= set(NODES))


def test_what_the_first_machine_says_is_its_own() -> None:
    ward = Ward()

    assert admit(ward, "a", "job")
    assert ward.shunned == {"a"}


def test_a_sick_machine_may_say_so_of_all_its_jobs() -> None:
    ward = Ward()

    assert all(admit(ward, "a", f"job{place}") for place in range(9))


@pytest.mark.parametrize(
    ("key", "text"), [("job", "another sentence"), ("another job", "the disk is full")]
)
def test_what_repeats_elsewhere_is_of_the_search(key: str, text: str) -> None:
    ward = Ward()
    admit(ward, "a", "job")

    assert not admit(ward, "b", key, text)
    assert ward.shunned == {"a"}


def test_machines_may_be_sick_in_ways_of_their_own_while_there_are_others() -> None:
    ward = Ward()

    admitted = [admit(ward, node, f"job on {node}", f"{node} is full") for node in NODES]

    assert admitted == [True, True, True, False]


def test_a_machine_that_is_unfit_is_no_other() -> None:
    ward = Ward()
    ward.unfit.update("bcd")

    assert not admit(ward, "a", "job")


def test_those_discharged_may_be_sick_again_and_those_unfit_stay_so() -> None:
    ward = Ward()
    ward.unfit.add("d")
    admit(ward, "a", "job")

    ward.discharge()

    assert ward.shunned == {"d"}
    assert not ward.is_sick
    assert admit(ward, "a", "job")


def test_a_fault_of_the_search_is_raised_soon_whoever_meets_it() -> None:
    rng = random.Random(1)
    for _ in range(50):
        ward = Ward()
        losses = 0

        while admit(ward, rng.choice(NODES), f"job{losses}", "a label is wrong"):
            losses += 1

        assert len(ward.shunned) == 1
        assert losses >= 1
