"""Searchers and methods against each other: which runs there are, and what each comes to."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from autocompress.errors import SettingError, StudyError, StudyLostError
from autocompress.evaluate.effort import count_fast_samples
from autocompress.evaluate.task import open_task
from autocompress.graph.layers import LayerGraph
from autocompress.graph.trace import trace_graph
from autocompress.masks.cost import Cost
from autocompress.methods.choose import METHODS
from autocompress.search.book import Book
from autocompress.search.budget import RESOURCES, Budget
from autocompress.search.controller import SearchResult, run_search, settle_chains
from autocompress.search.forecast import make_course, recall_course
from autocompress.search.ledger import read_records
from autocompress.search.progress import Watch, ignore_progress
from autocompress.search.rounds import plan_rounds
from autocompress.search.settings import SearcherName
from autocompress.search.site import check_reachable, count_dense
from autocompress.search.spec import Settings, make_spec, resolve_settings
from autocompress.search.study import open_study, read_spec
from autocompress.settings import change_settings, flatten_settings
from autocompress.train.loop import list_norms

SEARCHERS: tuple[str, ...] = get_args(SearcherName)
# What is the same for all arms, or names a run.
SHARED = ("name", "seed", "run_dir", "storage", "task", "budget")


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """What is compared.

    Attributes:
        seeds: Of the search and its evaluations; one run of each arm for each.
        samples: Samples that all fast evaluations of one run may send through the network, so
            that all arms spend the same; each round has one evaluation even where that is more.
            0 keeps ``search.evaluations``, and so does a named arm that sets it: those that need
            no search are one evaluation.
        budgets: One after the other; empty takes ``budget``.
        searchers: With each of ``methods`` one arm; empty leaves only the named arms.
        methods: Keys of the methods; empty keeps ``evaluate.method``.
        arms: Further arms by name: the settings that differ, by dotted key.
        reference: The arm that the others are compared with; the first one when empty.
        dense: One dense model for all seeds, or ``per_seed`` with ``task.seed`` as the seed.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    samples: int = 0
    budgets: tuple[Budget, ...] = ()
    searchers: tuple[str, ...] = SEARCHERS
    methods: tuple[str, ...] = ()
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    reference: str = ""
    dense: Literal["shared", "per_seed"] = "shared"

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len({*self.seeds}) < len(self.seeds):
            raise SettingError(
                "compare.seeds: want one seed or more, each once and 0 or more, got "
                f"{', '.join(map(str, self.seeds)) or 'none'}"
            )
        if self.samples < 0:
            raise SettingError(f"compare.samples: want 0 or more, got {self.samples}")
        for key, known in {"searchers": SEARCHERS, "methods": tuple(METHODS)}.items():
            for name in getattr(self, key):
                if name not in known:
                    raise SettingError(
                        f"compare.{key}: want some of {', '.join(known)}, got {name!r}"
                    )
        for place, budget in enumerate(self.budgets):
            if budget.is_empty:
                raise SettingError(
                    f"compare.budgets[{place}]: want a limit on {', '.join(RESOURCES)}, got none"
                )


@dataclass(frozen=True, kw_only=True)
class Compared(Settings):
    """An ordinary study and what of it is compared.

    Attributes:
        compare: Arms, seeds and budgets.
    """

    compare: CompareSettings = field(default_factory=CompareSettings)

    def study(self) -> Settings:
        """Return the settings without the comparison."""
        return Settings(**{one.name: getattr(self, one.name) for one in fields(Settings)})


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search of a comparison, an ordinary study.

    Attributes:
        arm: What is searched and how.
        budget: Its name.
        seed: Of the search.
        settings: Of the study; its places are settled.
    """

    arm: str
    budget: str
    seed: int
    settings: Settings


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All runs of a comparison.

    Attributes:
        settings: What the arms have in common, places settled.
        arms: Names, in order.
        reference: The arm that the others are compared with.
        budgets: By name.
        seeds: Of each arm and budget.
        runs: Budget by budget and seed by seed, so that what is there early can be compared.
        dense: What the dense model costs.
    """

    settings: Settings
    arms: tuple[str, ...]
    reference: str
    budgets: Mapping[str, Budget]
    seeds: tuple[int, ...]
    runs: tuple[Run, ...]
    dense: Cost


def plan_comparison(
    compared: Compared, *, seeds: Sequence[int] = (), arms: Sequence[str] = ()
) -> Comparison:
    """Return the runs of a comparison; opens the data, but trains and writes nothing.

    Args:
        compared: The settings.
        seeds: Instead of theirs; empty takes theirs.
        arms: Only these of them; empty takes all.

    Raises:
        SettingError: An arm is unknown, or its settings are wrong.
        BudgetError: A budget cannot be reached.
    """
    plain = compared.study()
    places = resolve_settings(plain)
    plain = replace(plain, run_dir=places.run_dir, storage=places.storage)
    compare = replace(compared.compare, seeds=tuple(seeds) or compared.compare.seeds)
    made = make_arms(plain, compare)
    chosen = {name: made[name] for name in _check_names("--arms", arms, made) or made}
    wanted = _check_names("compare.reference", [compare.reference or next(iter(made))], made)[0]
    budgets = {name_budget(one): one for one in compare.budgets or (plain.budget,)}
    meter = _Meter(plain, compare)
    runs = []
    for name, budget in budgets.items():
        check_reachable(resolve_settings(replace(plain, budget=budget)), meter.graph)
        timed = {
            arm: replace(one, budget=budget)
            if _sets_evaluations(compare, arm)
            else meter.settle(replace(one, budget=budget))
            for arm, one in chosen.items()
        }
        for seed in compare.seeds:
            for arm, settings in timed.items():
                study = f"{plain.name}-{name}-{arm}-{seed}"
                seeded = replace(settings, name=study, seed=seed)
                if compare.dense == "per_seed":
                    seeded = replace(seeded, task=replace(seeded.task, seed=seed))
                runs.append(Run(arm=arm, budget=name, seed=seed, settings=seeded))
    return Comparison(
        settings=plain,
        arms=tuple(chosen),
        reference=wanted if wanted in chosen else next(iter(chosen)),
        budgets=budgets,
        seeds=compare.seeds,
        runs=tuple(runs),
        dense=count_dense(meter.graph),
    )


def make_arms(settings: Settings, compare: CompareSettings) -> dict[str, Settings]:
    """Return the settings of each arm by its name; their budgets and seeds are not yet theirs.

    Raises:
        SettingError: An arm's name or settings are wrong, or there is none.
    """
    arms: dict[str, dict[str, Any]] = {}
    for searcher in compare.searchers:
        for method in compare.methods or ("",):
            name = f"{searcher}-{method}" if method else searcher
            arms[name] = {"search.searcher": searcher}
            arms[name] |= {"evaluate.method.name": method} if method else {}
    for name, table in compare.arms.items():
        changes = flatten_settings(table)
        shared = [key for key in changes if key.partition(".")[0] in SHARED]
        if name in arms or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise SettingError(
                f"compare.arms: want new names of letters, digits, '.', '_' and '-', got {name!r}"
            )
        if shared:
            raise SettingError(
                f"compare.arms.{name}: want settings in which arms may differ, got {shared[0]}; "
                f"all arms share {', '.join(SHARED)}"
            )
        arms[name] = changes
    if not arms:
        raise SettingError("compare: want searchers or arms, got neither")
    made = {}
    for name, changes in arms.items():
        try:
            made[name] = change_settings(settings, changes)
        except SettingError as error:
            raise SettingError(f"compare.arms.{name}: {error}") from error
    return made


def _sets_evaluations(compare: CompareSettings, arm: str) -> bool:
    """Return whether an arm says itself how many evaluations it takes."""
    return "search.evaluations" in flatten_settings(compare.arms.get(arm, {}))


def name_budget(budget: Budget) -> str:
    """Return a name with all that a budget says, such as ``macs0.5``."""
    values = {one.name: getattr(budget, one.name) for one in fields(budget)}
    parts = [
        f"{name}{value}" if isinstance(value, str) else f"{name}{value:.12g}".replace("+", "")
        for name, value in values.items()
        if value not in (None, "")
    ]
    return "-".join(parts)


def find_resource(budget: Budget, dense: Cost) -> str:
    """Return the resource that a budget is most about: what it minimises, or limits most."""
    if budget.minimize or (budget.latency is not None and budget.drop_latency().is_empty):
        return budget.minimize or "latency"
    costs = dense.list_known()
    limits = budget.drop_latency().limits(dense)
    return min(limits, key=lambda name: limits[name] / costs[name])


def iterate_runs(
    runs: Sequence[Run], progress: Watch = ignore_progress
) -> Iterator[tuple[Run, SearchResult]]:
    """Give what each run comes to: finished ones are read, others run or gone on with.

    Ends early after a run whose time was over.

    Args:
        runs: In this order.
        progress: As for :func:`autocompress.search.controller.run_search`, which says what may
            be raised.
    """
    for run in runs:
        result = read_result(run.settings) or run_search(run.settings, progress=progress)
        yield run, result
        if not result.done:
            return


def read_result(settings: Settings) -> SearchResult | None:
    """Return what a search came to that is done and was begun with these settings; or None.

    Raises:
        StudyLostError: The server of its database cannot be reached.
    """
    settings = settle_chains(resolve_settings(settings))
    try:
        study = open_study(settings.name, settings.storage)
        if read_spec(study) != make_spec(settings):
            return None  # Whoever runs it is told what differs.
    except StudyLostError:
        raise
    except StudyError:
        return None
    course, records = recall_course(settings, study.user_attrs), tuple(read_records(study))
    if course is None or not records:
        return None
    plan = plan_rounds(course, Book(records))
    if plan.todo != "done":
        return None
    return SearchResult(
        settings=settings, evaluated=0, records=records, done=True, missed=plan.missed
    )


class _Meter:
    """Gives each arm the evaluations that it can pay for."""

    def __init__(self, settings: Settings, compare: CompareSettings) -> None:
        task = open_task(settings.task)
        model = task.make_model().eval()
        self.graph: LayerGraph = trace_graph(model, task.example())
        self._samples = compare.samples
        self._sizes = len(task.data.train), len(task.data.validation)
        self._has_norms = bool(list_norms(model))

    def settle(self, settings: Settings) -> Settings:
        """Return ``settings`` with the evaluations per round that the samples are enough for."""
        if not self._samples:
            return settings
        resolved = resolve_settings(settings)
        space = resolved.space
        each = count_fast_samples(
            settings.evaluate,
            *self._sizes,
            has_norms=self._has_norms,
            quantizes=bool(space.bits or space.layer_bits),
        )
        course = make_course(resolved, self.graph, {})
        rounds = plan_rounds(course, Book()).rounds
        evaluations = max(1, self._samples // (each * rounds))
        return replace(settings, search=replace(settings.search, evaluations=evaluations))


def _check_names(key: str, names: Sequence[str], known: Mapping[str, object]) -> list[str]:
    for name in names:
        if name not in known:
            raise SettingError(f"{key}: want some of {', '.join(known)}, got {name!r}")
    return list(dict.fromkeys(names))
