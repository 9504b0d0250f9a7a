"""How far a deployment has come: told when it begins, when all of it serves, and when that takes too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.core.model import Moment

Tell = Callable[[Moment, str], None]


class Progress:
    """Of one deployment after the other. `finished` is called with the number of one that serves whole."""

    def __init__(self, tell: Tell, finished: Callable[[int], None]) -> None:
        self._tell, self._finished = tell, finished
        self.number = 0
        self._is_over = True
        self._is_late = False
        self._until_s = float("inf")

    def go_on_with(self, number: int) -> None:
        """An earlier controller began it already."""
        self.number = number

    def take_up(self, number: int, *, is_done: bool, until_s: float) -> None:
        """The deployment in force. `is_done`: it served whole before; `until_s`: by when it should."""
        if number == self.number and not self._is_over:
            return
        if number != self.number:
            self._tell(Moment.DEPLOYMENT_BEGAN, f"deployment {number} begins")
        elif is_done:
            return
        self.number, self._is_over, self._is_late, self._until_s = number, False, False, until_s

    def look(self, waits_for: Sequence[str], now_s: float) -> None:
        """`waits_for`: a sentence for each instance of it that does not serve, or must still go."""
        if self._is_over:
            return
        if not waits_for:
            self._is_over = True
            self._tell(Moment.DEPLOYMENT_FINISHED, f"deployment {self.number} serves whole")
            self._finished(self.number)
        elif now_s > self._until_s and not self._is_late:
            self._is_late = True
            self._tell(
                Moment.DEPLOYMENT_FAILED,
                f"deployment {self.number} does not serve whole in time, and goes on: {'; '.join(waits_for)}",
            )
