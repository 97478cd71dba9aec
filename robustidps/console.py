"""What the command line draws: progress bars, one line per finished stage, tables, errors. All of it goes through rich.

Progress and remarks go to standard error, results to standard output, so that `--json` output can be piped.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from robustidps.errors import RobustIDPSError, printable
from robustidps.progress import shown

__all__ = ["bars", "emit_json", "fail", "line", "out", "remark", "table", "watched"]

LABEL = 28
"""Width of the left column in which a stage is named."""

SHORT = 24
"""Columns whose cells are no longer than this are never wrapped; longer ones share what width is left."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def line(label: str, text: str, style: str = "") -> None:
    """A result: `label` on the left, what came of it on the right."""
    styled = f"[{style}]{escape(text)}[/{style}]" if style else escape(text)
    with _live.aside() if _live else nullcontext():
        out.print(f"[bold]{escape(f'{label:<{LABEL}}')}[/bold] {styled}")


def remark(text: str) -> None:
    err.print(f"[dim]{escape(text)}[/dim]")


def table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: Sequence[str] = (),
    wrapped: Sequence[str] = (),
) -> None:
    """A table on standard output; columns named in `right` are set flush right, those in `wrapped` may break at blanks
    however short they are."""
    grid = Table(
        title=escape(title) if title else None, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    cells = [[printable(cell, 400) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        short = column not in wrapped and max([len(column), *(len(row[index]) for row in cells)]) <= SHORT
        justify: Literal["left", "right"] = "right" if column in right else "left"
        grid.add_column(escape(column), justify=justify, overflow="fold", no_wrap=short)
    for row in cells:
        grid.add_row(*map(escape, row))
    out.print(grid)


def emit_json(content: Any) -> None:
    """`content` as JSON on standard output, and nothing else there."""
    sys.stdout.write(json.dumps(_finite(content), indent=2, default=str, allow_nan=False) + "\n")


def _finite(content: Any) -> Any:
    """`content` with null for what JSON has no number for: NaN and the infinities."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return content


def fail(error: RobustIDPSError) -> None:
    """One message: what, where, what to do."""
    where = f"{error.where}: " if error.where else ""
    err.print(f"[bold red]error[/bold red] {escape(where + error.problem)}")
    if error.remedy:
        err.print(f"      {escape(error.remedy)}")


class _Bars:
    """One live bar; a stage that ends becomes a line that stays, so that results can be printed between stages.

    Each branch draws a bar below; it is called from one thread at a time, rich's own lock keeps several apart.
    """

    def __init__(self, progress: Progress, name: str = "") -> None:
        self.progress, self.name = progress, name
        self.stage: str | None = None
        self.task: TaskID | None = None
        self.branches: list[_Bars] = []

    def branch(self, name: str) -> _Bars:
        self.branches.append(_Bars(self.progress, name))
        return self.branches[-1]

    def __call__(self, stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = "") -> None:
        stage = f"{self.name}: {stage}" if self.name else stage
        if stage != self.stage or self.task is None:
            self.finish()
            self.stage = stage
            self.task = self.progress.add_task(escape(f"{stage:<{LABEL}}"), total=total, amount="")
        amount = f"{done:,.0f} {unit}" if unit else ""
        text = "  ".join(part for part in (amount, note) if part)
        self.progress.update(self.task, completed=done, total=total, amount=escape(printable(text)))

    def finish(self) -> None:
        """Ends the stage: its bar becomes a line of text. Those of branches end too."""
        for below in self.branches:
            below.finish()
        if self.task is None:
            return
        state = next(t for t in self.progress.tasks if t.id == self.task)
        took = f"{int(state.elapsed or 0) // 60}:{int(state.elapsed or 0) % 60:02d}"
        self.progress.remove_task(self.task)
        self.progress.console.print(f"[dim]{escape(f'{self.stage:<{LABEL}}')} {state.fields['amount']}  {took}[/dim]")
        self.task = self.stage = None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the bar off the screen while something else is printed."""
        self.finish()
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()


_live: _Bars | None = None


@contextmanager
def bars(enabled: bool = True) -> Iterator[None]:
    """Shows the progress of everything in the block on standard error (plain lines where it isn't a terminal)."""
    global _live
    if not enabled:
        yield
        return
    if not err.is_terminal:
        with shown(_Plain()):
            yield
        return
    columns = (
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        _live = _Bars(progress)
        try:
            with shown(_live):
                yield
        finally:
            _live.finish()
            _live = None


def watched(columns: Sequence[str], rows: Callable[[], Iterable[Sequence[object]]], look: Callable[[], object]) -> None:
    """Calls `look` again and again until something is raised; on a terminal, with a table on standard error of what
    `rows` gives then, drawn again only when it has changed: nothing flickers, and what somebody has selected stays so.
    Remarks go above it."""
    if not err.is_terminal:
        while True:
            look()
            time.sleep(0.5)
    drawn: object = None
    with Live(console=err, auto_refresh=False, transient=True) as live:
        while True:
            current = ([[printable(cell, 100) for cell in row] for row in rows()], err.size)
            if current != drawn:
                grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
                for column, cells in zip(columns, zip(*current[0], strict=True), strict=True):
                    # On a narrow terminal headings break, addresses don't.
                    grid.add_column(escape(column), overflow="fold", no_wrap=max(map(len, cells)) > len(column))
                for row in current[0]:
                    grid.add_row(*map(escape, row))
                live.update(Group(grid, ""), refresh=True)  # a line of its own for the ^C that a terminal shows
                drawn = current
            look()
            time.sleep(0.5)


class _Plain:
    """For logs: a line when a stage begins, and one every ten seconds while it lasts."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.stage: str | None = None
        self.told = 0.0

    def branch(self, name: str) -> _Plain:
        return _Plain(name)

    def __call__(self, stage: str, done: float, total: float | None = None, *, unit: str = "", note: str = "") -> None:
        stage = f"{self.name}: {stage}" if self.name else stage
        now = time.monotonic()
        if stage == self.stage and now - self.told < 10:
            return
        self.stage, self.told = stage, now
        share = f" {100 * done / total:.0f} %" if total else ""
        remark(f"{stage}{share}{'  ' + note if note else ''}")
