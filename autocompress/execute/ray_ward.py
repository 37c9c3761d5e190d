"""Which machines of a cluster are not to be used, and whose fault an error is."""

from collections.abc import Callable

OF_A_MACHINE = {"ArtifactError", "DataError"}  # What may go wrong there and nowhere else.


class Ward:
    """Tells a sick machine from a sick search.

    A full disk or a damaged library of one machine meets every job there in the same way, and so
    does a damaged data set everywhere. What one machine says first is its own trouble; what the
    same job meets on a second one, or what a second one says word for word, is the search's.

    Attributes:
        unfit: Machines that cannot be used as they are, such as with another version.
    """

    def __init__(self) -> None:
        """Suspect none yet."""
        self.unfit: set[str] = set()
        self._sick: dict[str, set[str]] = {}  # What they said.
        self._refused: dict[str, str] = {}  # Where, by the key of a job.

    @property
    def shunned(self) -> frozenset[str]:
        """Return the machines that are not to be used."""
        return frozenset({*self.unfit, *self._sick})

    @property
    def is_sick(self) -> bool:
        """Return whether there is a sick machine."""
        return bool(self._sick)

    def admit(
        self, node: str, key: str, text: str, has_more: Callable[[frozenset[str]], bool]
    ) -> bool:
        """Return whether an error is the trouble of a machine alone, which is sick then.

        Args:
            node: The machine.
            key: Of the job that met it; empty while a worker is made ready.
            text: What it says.
            has_more: Whether there are machines beyond those given.
        """
        elsewhere = any(text in said for other, said in self._sick.items() if other != node)
        again = self._refused.get(key, node) != node
        if elsewhere or again or not has_more(self.shunned | {node}):
            return False
        self._sick.setdefault(node, set()).add(text)
        if key:
            self._refused[key] = node
        return True

    def discharge(self) -> None:
        """Let sick machines try again, as when there are no others left."""
        self._sick.clear()
