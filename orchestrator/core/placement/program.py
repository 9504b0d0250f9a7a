"""A linear program that grows by columns, with HiGHS behind it. HiGHS is imported when the first one is made.

Rows are named, columns come with their entries. The same columns in the same order give the same solution: one thread,
and no randomness of HiGHS' own. Only a solution cut off by the time limit depends on the machine.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Final

_FEASIBLE: Final = 2  # HiGHS' kSolutionStatusFeasible
_NODES: Final = 500  # of a search: a limit that is the same on every machine, and mostly comes before that of time


@dataclass(frozen=True, slots=True)
class Solved:
    """`objective` of what was found; `bound`: nothing is better than that."""

    values: tuple[float, ...]
    objective: float
    bound: float
    duals: Mapping[Hashable, float]


class Program:
    """Maximise. Whole numbers are sought until nothing is better by `gap`, or by this `share` of what was found."""

    def __init__(self, *, time_limit_s: float, gap: float = 1e-6, share: float = 0.0) -> None:
        import highspy  # here: 0.1 s that plans without a solver do not pay
        import numpy

        self._highspy, self._numpy = highspy, numpy
        make: Any = highspy.Highs  # has no types
        self._highs: Any = make()
        self._time_limit_s = time_limit_s
        options = {
            "output_flag": False,
            "threads": 1,
            "parallel": "off",
            "random_seed": 0,
            "mip_rel_gap": share,
            "mip_abs_gap": gap,
            "mip_max_nodes": _NODES,
        }
        for name, value in options.items():
            self._highs.setOptionValue(name, value)
        self._highs.changeObjectiveSense(highspy.ObjSense.kMaximize)
        self._rows: dict[Hashable, int] = {}
        self._whole: list[int] = []
        self._columns = 0
        self._is_whole = False

    def row(self, name: Hashable, least: float, most: float) -> None:
        self._rows[name] = len(self._rows)
        self._highs.addRow(least, most, 0, self._ints([]), self._floats([]))

    def allow(self, name: Hashable, most: float) -> None:
        """Another upper end for a row."""
        self._highs.changeRowBounds(self._rows[name], -inf, most)

    def column(
        self, cost: float, entries: Mapping[Hashable, float], *, most: float = inf, is_whole: bool = False
    ) -> int:
        """A variable from 0 to `most`; its number."""
        rows = [self._rows[name] for name in entries]
        self._highs.addCol(cost, 0.0, most, len(rows), self._ints(rows), self._floats(list(entries.values())))
        if is_whole:
            self._whole.append(self._columns)
        self._columns += 1
        return self._columns - 1

    def price(self, column: int, cost: float) -> None:
        self._highs.changeColCost(column, cost)

    def hold(self, column: int, least: float) -> None:
        """A variable is at least this from now on."""
        self._highs.changeColBounds(column, least, inf)

    def relaxed(self) -> Solved | None:
        """The best solution where numbers need not be whole; None where there is none, or not in time."""
        return self._run(is_whole=False)

    def solved(self) -> Solved | None:
        """The best solution found in time."""
        return self._run(is_whole=True)

    def _run(self, *, is_whole: bool) -> Solved | None:
        if is_whole != self._is_whole or is_whole:
            types = self._highspy.HighsVarType
            kind = types.kInteger if is_whole else types.kContinuous
            columns = self._ints(self._whole)
            self._highs.changeColsIntegrality(len(columns), columns, self._numpy.full(len(columns), int(kind), "uint8"))
            self._is_whole = is_whole
        # HiGHS counts the time of all its runs.
        self._highs.setOptionValue("time_limit", self._highs.getRunTime() + self._time_limit_s)
        self._highs.run()
        info = self._highs.getInfo()
        is_best = self._highs.getModelStatus() == self._highspy.HighsModelStatus.kOptimal
        if info.primal_solution_status != _FEASIBLE or not (is_best or is_whole):
            return None
        found, objective = self._highs.getSolution(), float(info.objective_function_value)
        duals = {} if is_whole else dict(zip(self._rows, map(float, found.row_dual), strict=True))
        bound = float(info.mip_dual_bound) if is_whole else objective
        return Solved(tuple(map(float, found.col_value)), objective, bound, duals)

    def _ints(self, values: list[int]) -> Any:
        return self._numpy.array(values, dtype=self._numpy.int32)

    def _floats(self, values: list[float]) -> Any:
        return self._numpy.array(values, dtype=self._numpy.float64)
