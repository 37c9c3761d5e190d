"""A controller in a thread of its own, which asks whoever runs its jobs instead of waiting."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

from autocompress.search.controller import SearchResult, run_controller
from autocompress.search.loop import Controller
from autocompress.search.tune_exchange import Exchange

Hold = Callable[[], AbstractContextManager[Controller]]


class SearchThread:
    """Opens a study, searches and closes it, all in one thread: a database is used by one only."""

    def __init__(self, hold: Hold, exchange: Exchange) -> None:
        """Start.

        Args:
            hold: Opens the study, with an executor on ``exchange``.
            exchange: Where jobs are taken and told of; closed at the end.
        """
        self._exchange = exchange
        self._hold = hold
        self._opened = threading.Event()
        self._result: SearchResult | None = None
        self._error: BaseException | None = None
        # A process that ends does not wait for it: whatever it does may be cut off.
        self._thread = threading.Thread(target=self._work, name="autocompress", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Return whether the search has ended.

        Raises:
            Exception: What ended it.
        """
        if self._error is not None:
            raise self._error
        return self._result is not None

    def wait_until_open(self) -> None:
        """Wait for the dense model and the study; a keyboard interrupt stops the search.

        Raises:
            Exception: What went wrong with them.
        """
        try:
            self._opened.wait()
        except KeyboardInterrupt:
            self._exchange.stop()
            raise
        _ = self.is_over

    def stop(self) -> None:
        """Have the search put back what runs, and wait until it has ended; no error is raised."""
        self._exchange.stop()
        self._thread.join()

    def wait(self) -> SearchResult:
        """Return what the search came to, once it has ended.

        Raises:
            Exception: What ended it.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _work(self) -> None:
        try:
            with self._hold() as controller:
                self._opened.set()
                self._result = self._run(controller)
        except BaseException as error:  # noqa: BLE001 - raised where someone listens
            self._error = error
        finally:
            self._opened.set()
            self._exchange.close()

    def _run(self, controller: Controller) -> SearchResult:
        before = len(controller.records)
        try:
            return run_controller(controller)
        except KeyboardInterrupt:
            records = tuple(controller.records)
            return SearchResult(
                settings=controller.settings,
                evaluated=len(records) - before,
                records=records,
                done=False,
            )
