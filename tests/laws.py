"""What holds for every study, however often its search was killed."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from autocompress.jobs import Candidate
from autocompress.search.book import Book
from autocompress.search.entries import ORIGINAL
from autocompress.search.forecast import make_course, recall_table
from autocompress.search.ledger import read_records
from autocompress.search.loop import Controller
from autocompress.search.records import Record
from autocompress.search.requests import Asker
from autocompress.search.rounds import Course, plan_rounds
from autocompress.search.site import Site
from autocompress.search.spec import Settings
from autocompress.search.study import open_study
from tests.fakes import FakeEvaluator, make_small_graph

Step = tuple[int, str, float | None, bool, float | None]


def read_trajectory(settings: Settings) -> list[Step]:
    """Return the sequence, key, energy, acceptance and temperature of every decision."""
    study = open_study(settings.name, settings.storage)
    steps = []
    for trial in study.get_trials(deepcopy=False):
        if "verdict" in trial.user_attrs:
            one = json.loads(trial.user_attrs["verdict"])
            key = trial.user_attrs["key"]
            steps.append((one["seq"], key, one["energy"], one["accepted"], one["temperature"]))
    return sorted(steps)


def find_violations(settings: Settings) -> list[str]:
    """Return what is wrong with a study that is done, one sentence each."""
    study = open_study(settings.name, settings.storage)
    trials = study.get_trials(deepcopy=False)
    course = make_course(settings, make_small_graph(), study.user_attrs)
    book = Book(read_records(study))  # Raises when the sequence has a gap.
    plan = plan_rounds(course, book)
    found = [] if plan.todo == "done" else [f"it is not done, but has {plan.todo} to do"]
    found += check_trials(trials, settings.search.attempts)
    for current in map(plan.find_round, sorted({one.round for one in book.records})):
        asked = course.evaluations + (course.extra if current.is_last else 0)
        if len(book.find(current.number, "fast")) != asked:
            found.append(f"round {current.number}: want {asked} evaluations")
        asker = make_asker(settings, course, study)
        found += check_proposals(asker.open_site(current), book, trials)
        fresh = make_asker(settings, course, study)
        found += check_decisions(fresh.open_site(current), book, trials)
    return found


def check_trials(trials: Sequence[FrozenTrial], attempts: int) -> Iterator[str]:
    """Give what is wrong with single trials of a finished study."""
    verdicts: Counter[int] = Counter()
    keys: Counter[str] = Counter()
    for trial in trials:
        attrs, verdict = trial.user_attrs, read_verdict(trial)
        origin = trial.number if attrs["origin"] == ORIGINAL else attrs["origin"]
        verdicts[origin] += bool(verdict)
        if trial.state not in {TrialState.COMPLETE, TrialState.FAIL}:
            yield f"trial {trial.number}: it is still {trial.state.name}"
        if not 1 <= attrs["attempt"] <= attempts:
            yield f"trial {trial.number}: attempt {attrs['attempt']}"
        if not verdict:
            if trial.state is not TrialState.FAIL or not attrs.get("error"):
                yield f"trial {trial.number}: it ended with neither a verdict nor an error"
            continue
        keys[attrs["key"]] += not verdict["cached"]
        complete = trial.state is TrialState.COMPLETE
        if complete != (verdict["energy"] is not None):
            yield f"trial {trial.number}: {trial.state.name} with energy {verdict['energy']}"
        if complete and trial.values[0] != verdict["energy"]:
            yield f"trial {trial.number}: told {trial.values[0]}, decided {verdict['energy']}"
        if not verdict["excess"].items() <= trial.constraints.items():
            yield f"trial {trial.number}: constraints {trial.constraints}"
        if not 0 <= attrs["after"] <= verdict["seq"]:
            yield f"trial {trial.number}: proposed after {attrs['after']} decisions"
    yield from (f"trial {one}: {n} verdicts" for one, n in verdicts.items() if n != 1)
    yield from (f"key {key}: evaluated {n} times" for key, n in keys.items() if n > 1)


def check_proposals(site: Site, book: Book, trials: Sequence[FrozenTrial]) -> Iterator[str]:
    """Give the proposals of a round that do not follow from the decisions before them."""
    records = list(book.find(site.round.number, "fast"))
    known: set[str] = set()
    asked = [one.user_attrs for one in trials if is_scored(one, site) and is_first_attempt(one)]
    for index, attrs in enumerate(sorted(asked, key=lambda attrs: int(attrs["index"]))):
        while records and records[0].seq < attrs["after"]:
            site.searcher.decide(records.pop(0))
        proposal = site.searcher.propose(index, known)
        candidate = Candidate.from_json(json.loads(attrs["candidate"]))
        there = (attrs["index"], candidate, attrs["chain"], attrs["parent"])
        if there != (index, proposal.candidate, proposal.chain, proposal.parent):
            yield f"round {site.round.number}: proposal {index} cannot be replayed"
        known.add(candidate.key())


def check_decisions(site: Site, book: Book, trials: Sequence[FrozenTrial]) -> Iterator[str]:
    """Give the decisions of a round that do not follow from those before them."""
    for record in book.find(site.round.number, "fast"):
        verdict, decision = read_verdict(trials[record.number]), site.searcher.decide(record)
        there = (verdict["accepted"], verdict["temperature"])
        if there != (decision.accepted, decision.temperature):
            yield f"decision {record.seq}: {there}, but the replay says {decision}"


def compare_memory(controller: Controller, study: optuna.Study, record: Record) -> Iterator[str]:
    """Give the differences between a controller's memory and what is stored, after a decision."""
    stored = read_records(study)
    if not equal_records(stored, controller.records):
        yield f"decision {record.seq}: memory has {len(controller.records)} records, not these"
    current = controller.plan().find_round(record.round)
    course = make_course(controller.settings, make_small_graph(), study.user_attrs)
    fresh = make_asker(controller.settings, course, study, stored).open_site(current)
    if fresh.searcher.state != controller.open_site(current).searcher.state:
        yield f"decision {record.seq}: the replayed state is not the one in memory"


def make_asker(
    settings: Settings, course: Course, study: optuna.Study, records: Iterable[Record] = ()
) -> Asker:
    """Return what opens the rounds of a study with new searchers, told of ``records``."""
    return Asker(
        settings=settings,
        course=course,
        evaluator=FakeEvaluator(),
        book=Book(records),
        table=recall_table(study.user_attrs),
    )


def equal_records(one: Sequence[Record], other: Sequence[Record]) -> bool:
    """Return whether the records are equal; here, NaN equals NaN."""
    return [_key(record) for record in one] == [_key(record) for record in other]


def is_scored(trial: FrozenTrial, site: Site) -> bool:
    """Return whether a trial is a proposal of a round."""
    attrs = trial.user_attrs
    return (attrs["stage"], attrs["round"]) == ("fast", site.round.number)


def is_first_attempt(trial: FrozenTrial) -> bool:
    """Return whether a trial repeats no other."""
    return bool(trial.user_attrs["origin"] == ORIGINAL)


def read_verdict(trial: FrozenTrial) -> dict[str, Any]:
    """Return what was decided; empty when nothing was."""
    return dict(json.loads(trial.user_attrs.get("verdict", "{}")))


def _key(record: Record) -> tuple[Any, ...]:
    energy = None if math.isnan(record.energy) else record.energy
    return (*(value for name, value in vars(record).items() if name != "energy"), energy)
