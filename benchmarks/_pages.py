"""Puts what a benchmark printed into a page, between two markers, so that no figure is ever typed."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def write_section(page: str, section: str, text: str) -> Path:
    """Replaces what stands between `<!-- SECTION begins -->` and `<!-- SECTION ends -->` in `docs/PAGE`.

    Raises:
        SystemExit: the page has no such markers.
    """
    path = ROOT / "docs" / page
    content = path.read_text(encoding="utf-8")
    begins, ends = f"<!-- {section} begins -->", f"<!-- {section} ends -->"
    head, found, rest = content.partition(begins)
    _, also_found, tail = rest.partition(ends)
    if not found or not also_found:
        raise SystemExit(f"{path} has no section {section!r}: put {begins} and {ends} where it belongs")
    part = path.with_name(f"{path.name}.part")
    part.write_text(f"{head}{begins}\n\n{text.strip()}\n\n{ends}{tail}", encoding="utf-8")
    part.replace(path)
    return path


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, columns padded so that it reads in a terminal too; figures to the right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return "\n".join([line(header), f"|{rule}|", *(line(r) for r in rows)])


def circumstances(command: str) -> str:
    """A sentence on when, where and by what command figures were made."""
    today = datetime.now(UTC).date().isoformat()
    return f"Printed by `{command}` on {today}, Python {platform.python_version()}, {os.cpu_count()} cores."
