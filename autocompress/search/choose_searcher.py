"""Which searcher a round has."""

from collections.abc import Callable, Mapping

from autocompress.search.anneal import Schedule
from autocompress.search.baselines import search_randomly, sweep_uniformly
from autocompress.search.guide import Ground
from autocompress.search.ladder import Annealing
from autocompress.search.optuna_searchers import Nsga2Search, TpeSearch
from autocompress.search.ranking import rank_globally
from autocompress.search.searcher import Searcher

SEARCHERS: Mapping[str, Callable[[Schedule, Ground], Searcher]] = {
    "annealing": Annealing,
    "random": search_randomly,
    "tpe": TpeSearch,
    "nsga2": Nsga2Search,
    "uniform": sweep_uniformly,
    "global": rank_globally,
}
RANKING = frozenset({"global"})  # Those that ask what the weights of the base matter.


def make_searcher(schedule: Schedule, ground: Ground) -> Searcher:
    """Return the searcher that the settings name, before the first decision of a round.

    Args:
        schedule: Settings, seed and round.
        ground: Where the round searches.
    """
    return SEARCHERS[schedule.settings.searcher](schedule, ground)
