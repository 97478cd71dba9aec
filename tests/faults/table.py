"""The table of faults that were tried, wherever in the tests.

A test says what was tried and what is left afterwards: `@pytest.mark.fault("the disk full", "nothing half-written")`.
A run ends with a table of what was tried and what was survived; `--write-faults` writes it into docs/reliability.md.
The hooks are taken up by `tests/conftest.py`.
"""

from __future__ import annotations

import json

from benchmarks._pages import circumstances, write_section

__all__ = ["pytest_collection_modifyitems", "pytest_terminal_summary"]


def pytest_collection_modifyitems(items):
    for item in items:
        if marker := item.get_closest_marker("fault"):
            item.user_properties.append(("fault", json.dumps(marker.args)))


def pytest_terminal_summary(terminalreporter, config):
    rows = table(terminalreporter.stats)
    if not rows:
        return
    terminalreporter.section("faults tried")
    terminalreporter.write_line(rows)
    if config.getoption("--write-faults"):
        text = f"{rows}\n\n{circumstances('make test-long PYTEST_ARGS=--write-faults')}"
        terminalreporter.write_line(f"written: {write_section('reliability.md', 'faults', text)}")


def table(stats) -> str:
    """Every fault that was tried in this run, in Markdown; empty where none was."""
    outcomes: dict[tuple[str, str], list[str]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "fault" and (report.when == "call" or outcome != "passed"):
                    outcomes.setdefault(tuple(json.loads(value)), []).append(outcome)
    if not outcomes:
        return ""
    lines = ["| tried | afterwards | survived |", "|---|---|---|"]
    for (tried, afterwards), said in sorted(outcomes.items()):
        passed = said.count("passed")
        survived = "not tried here" if set(said) == {"skipped"} else f"{passed} of {len(said)}"
        lines.append(f"| {tried} | {afterwards} | {survived} |")
    return "\n".join(lines)
