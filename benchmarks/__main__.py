"""Lists and runs benchmarks.

    python -m benchmarks                   all that take a minute or so, one after the other (`make bench`)
    python -m benchmarks --list            what there is
    python -m benchmarks NAME [options]    one of them; `NAME --help` says what it can be told

A benchmark is a module in this folder: its docstring's first line says what it measures, `MINUTES` about how long it
takes (1 where it doesn't say), and it runs as a script.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

BRIEF = 2
"""Minutes up to which a benchmark is run without being asked for by name."""


def found() -> dict[str, tuple[float, str]]:
    """The benchmarks by name: minutes and what they measure, read from their source without importing it."""
    there = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        minutes = 1.0
        for node in tree.body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MINUTES":
                minutes = ast.literal_eval(node.value)
        there[path.stem] = (minutes, (ast.get_docstring(tree) or "").partition("\n")[0])
    return there


def run(name: str, arguments: list[str]) -> None:
    before = sys.argv
    sys.argv = [f"python -m benchmarks {name}", *arguments]
    try:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    finally:
        sys.argv = before


def main(arguments: list[str]) -> int:
    there = found()
    if arguments and arguments[0] in there:
        run(arguments[0], arguments[1:])
        return 0
    if arguments not in ([], ["--list"]):
        print(__doc__)
        print(f"benchmarks: no benchmark {arguments[0]!r}; known: {', '.join(there)}", file=sys.stderr)
        return 2
    for name, (minutes, what) in there.items():
        print(f"{name:16} {minutes:3g} min  {what}")
    if not arguments:
        for name, (minutes, _) in there.items():
            if minutes <= BRIEF:
                print(f"\n== {name}", flush=True)
                try:
                    run(name, [])
                except SystemExit as end:
                    if end.code:
                        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
