"""The tree of our exceptions.

AutoCompressError
├── SettingError (ValueError)      a settings file or argument is wrong
├── DataError                      a data set is missing or malformed
├── GraphError                     a model cannot be traced or a layer is not supported
│   └── CouplingError              masks of coupled layers keep different filters
├── BudgetError (ValueError)       a budget cannot be reached
├── StudyError                     a study is missing, damaged or busy
│   ├── SpecMismatchError          a study was begun with other settings
│   ├── StudyBusyError             another controller holds the study
│   └── StudyLostError             the database or the lock went away; waiting may help
├── ArtifactError                  a stored model or result is missing or damaged
│   └── FormatError                a packed file is damaged, or not one of ours
├── ExportError                    a model cannot be handed to another runtime
├── ClusterError                   a Ray cluster failed while jobs ran on it
└── EvaluationError                a candidate could not be evaluated
"""


class AutoCompressError(Exception):
    """Base of every error raised on purpose by this package."""


class SettingError(AutoCompressError, ValueError):
    """A settings file or an argument is wrong."""


class DataError(AutoCompressError):
    """A data set is missing or malformed."""


class GraphError(AutoCompressError):
    """A model cannot be traced, or one of its layers is not supported."""


class CouplingError(GraphError):
    """Masks of coupled layers keep different filters.

    Attributes:
        group: Name of the coupling group.
        kept: Filters kept by each layer of the group.
    """

    def __init__(self, group: str, kept: dict[str, int]) -> None:
        super().__init__(group, kept)  # Whole args: pickle rebuilds the error from them.
        self.group = group
        self.kept = kept

    def __str__(self) -> str:
        counts = ", ".join(f"{layer} keeps {n}" for layer, n in sorted(self.kept.items()))
        return f"group {self.group!r} must keep the same filters in every layer, but {counts}"


class BudgetError(AutoCompressError, ValueError):
    """A budget cannot be reached within the search space.

    Attributes:
        resource: Name of the resource, such as ``macs``.
        wanted: The budget, in units of the resource.
        reachable: The least that the space can reach, in the same units.
    """

    def __init__(self, resource: str, wanted: float, reachable: float) -> None:
        super().__init__(resource, wanted, reachable)
        self.resource = resource
        self.wanted = wanted
        self.reachable = reachable

    def __str__(self) -> str:
        return (
            f"budget.{self.resource}: want at most {self.wanted:,.0f}, but this search space "
            f"reaches only {self.reachable:,.0f}; raise the budget or widen the density ranges"
        )


class StudyError(AutoCompressError):
    """A study is missing, damaged or in use."""


class SpecMismatchError(StudyError):
    """A study was begun with other settings.

    Attributes:
        study: Name of the study.
        differences: For each differing key, the stored and the given value as text.
    """

    def __init__(self, study: str, differences: dict[str, tuple[str, str]]) -> None:
        super().__init__(study, differences)
        self.study = study
        self.differences = differences

    def __str__(self) -> str:
        rows = ", ".join(
            f"{key} is {stored} in the study but {given} now"
            for key, (stored, given) in sorted(self.differences.items())
        )
        return (
            f"study {self.study!r} was begun with other settings: {rows}; "
            "use the old settings or give the study another name"
        )


class StudyBusyError(StudyError):
    """Another controller holds the study.

    Attributes:
        study: Name of the study.
        holder: Who it is, as far as that is known.
    """

    def __init__(self, study: str, holder: str = "") -> None:
        super().__init__(study, holder)
        self.study = study
        self.holder = holder

    def __str__(self) -> str:
        who = f", {self.holder}" if self.holder else ""
        return f"study {self.study!r} is in use by another controller{who}; wait for it or stop it"


class StudyLostError(StudyError):
    """The database of a study cannot be reached, or the lock on the study is gone.

    Attributes:
        study: Name of the study.
        cause: What the driver says.
    """

    def __init__(self, study: str, cause: str) -> None:
        super().__init__(study, cause)
        self.study = study
        self.cause = cause

    def __str__(self) -> str:
        return f"study {self.study!r}: the database cannot be reached: {self.cause}"


class ArtifactError(AutoCompressError):
    """A stored model or result is missing or damaged."""


class FormatError(ArtifactError):
    """A packed file, or a part of one, is damaged, asks for too much, or is not one of ours."""


class ExportError(AutoCompressError):
    """A model cannot be handed to another runtime, or computes something else there."""


class ClusterError(AutoCompressError):
    """A Ray cluster failed, or went away, while jobs ran on it.

    Attributes:
        cause: What is known of it.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause

    def __str__(self) -> str:
        return (
            f"the Ray cluster failed: {self.cause}; all results that had come back are stored: "
            "start the search again to go on with it"
        )


class EvaluationError(AutoCompressError):
    """A candidate could not be evaluated."""
