"""Attacks on updates: how many were tried and how many refused, by running the tests that are named for them.

Every test with the marker `attack(name, refusal)` in tests/attacks is one or more tries: a parametrised one counts once
a case. A try counts as refused when its test passes, which means: the documented error, nothing outside the quarantine,
trusted metadata as before.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from typing import Any

import pytest

from benchmarks._pages import ROOT, circumstances, table, write_section


class Counter:
    """A pytest plugin. refused: by test, whether the attack was; marks: by test, the attack and what it ends in."""

    def __init__(self) -> None:
        self.marks: dict[str, tuple[str, str]] = {}
        self.refused: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.get_closest_marker("attack")]
        self.marks = {item.nodeid: item.get_closest_marker("attack").args for item in items}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.outcome == "failed":  # in its teardown too: something was unpickled on the way
            self.refused[report.nodeid] = False
        elif report.outcome == "passed" and report.when == "call":
            self.refused[report.nodeid] = True

    def rows(self) -> list[list[str]]:
        tried: dict[str, list[bool]] = defaultdict(list)
        ends: dict[str, set[str]] = defaultdict(set)
        for test, refused in self.refused.items():
            name, end = self.marks[test]
            tried[name].append(refused)
            ends[name].add(end)
        rows = [[name, ", ".join(sorted(ends[name])), f"{sum(r)} / {len(r)}"] for name, r in sorted(tried.items())]
        return [*rows, [f"all {len(rows)}", "", f"{sum(self.refused.values())} / {len(self.refused)}"]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks attacks", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/threat-model.md")
    arguments = parser.parse_args()
    counter = Counter()
    files = sorted(str(path) for path in (ROOT / "tests" / "attacks").glob("test_*.py"))
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", "--no-summary", *files], plugins=[counter])
    text = "\n\n".join(
        [table(["attack", "ends in", "refused / tried"], counter.rows()), circumstances("python -m benchmarks attacks")]
    )
    print(text)
    if arguments.write and code == 0:
        print(f"wrote {write_section('threat-model.md', 'attacks', text)}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
