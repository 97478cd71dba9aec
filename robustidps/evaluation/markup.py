"""HTML that can't be broken out of: every word is escaped unless it was made here, and a page loads and sends nothing.

`element` escapes each child that isn't `Markup`, and `Markup` comes from nowhere but this module, so a class that is
called `</td><script>` is a class with a strange name. Control and format characters (a right-to-left override, say)
become `?`. `document` puts a content security policy before anything else: no script, no request, no form; its style
sheet is the one whose digest the policy names, so no `style` attribute has an effect either.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence

from robustidps.errors import printable

__all__ = ["Markup", "document", "element", "join", "picture", "table"]

_LONGEST = 4000
_VOID = {"img", "meta", "br"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str, **attributes: str | int | float) -> Markup:
    """`<name attributes>children</name>`; `class_` gives the attribute `class`, `aria_label` gives `aria-label`."""
    words = [name]
    for key, value in attributes.items():
        content = _escaped(value if isinstance(value, str) else str(value))
        words.append(f'{key.rstrip("_").replace("_", "-")}="{content}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in _VOID else f"{start}{join(*children)}</{name}>")


def join(*parts: str) -> Markup:
    """Parts one after the other, each escaped unless it is `Markup`."""
    return Markup("".join(_escaped(part) for part in parts))


def table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]] | Mapping[str, Iterable[Sequence[str]]],
    *,
    words: int = 1,
) -> Markup:
    """A table with header cells for columns and for each row's first cell, which scrolls sideways where it is wide.

    Args:
        rows: of cells, or such rows by the heading that they stand under.
        words: how many columns from the left hold words; the others hold figures, set flush right.
    """

    def cells(first: str, other: str, scope: str, contents: Sequence[str]) -> list[Markup]:
        made = []
        for index, content in enumerate(contents):
            more = {"class_": "figure"} if index >= words else {}
            name = other if index else first
            made.append(element(name, content, **more, **({"scope": scope} if name == "th" else {})))
        return made

    bodies = []
    for heading, under in (rows if isinstance(rows, Mapping) else {"": rows}).items():
        lines = [element("tr", *cells("th", "td", "row", row)) for row in under]
        if heading:
            over = element("th", heading, colspan=len(header), scope="rowgroup", class_="over")
            lines.insert(0, element("tr", over))
        bodies.append(element("tbody", *lines))
    head = element("thead", element("tr", *cells("th", "th", "col", header)))
    grid = element("table", element("caption", caption), head, *bodies)
    return element("div", grid, class_="wide", role="region", tabindex=0, aria_label=caption)


def picture(png: bytes, text: str) -> Markup:
    """An embedded PNG; `text` is what it shows, for those who can't see it, and stands below it."""
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return element("figure", element("img", src=Markup(source), alt=text), element("figcaption", text))


def document(title: str, style: str, *body: str) -> str:
    """A whole page, to be written as a file of its own."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(style)),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *body), lang='en')}\n"


def _escaped(text: str) -> str:
    if isinstance(text, Markup):
        return text
    return html.escape("\n".join(printable(line, _LONGEST) for line in text.splitlines()))
