"""Public data sets, each told by one file: `configs/datasets/NAME.yaml` says what its releases look like.

A release is recognised by its header, its published files by their numbers of rows; names are believed for nothing
but the day or attack they stand for, since copies circulate renamed, swapped and cut. So a file goes one of four ways:

    published   header and rows are those of a file of the release
    sample      the header fits, the rows don't: it loads, and is called a sample, never the release
    look-alike  the configuration knows what it is and why it isn't used: refused, or left aside beside files that are
    stranger    anything else

Refused as a whole: a folder with files of two releases, a published file beside a cut one, the same file twice.
Provenance says for every file what was dropped and why.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from robustidps.errors import DatasetError, printable
from robustidps.progress import Progress, silent
from robustidps.settings import CONFIGS, load_yaml
from robustidps.traffic.loaders.base import Recognised, data_files
from robustidps.traffic.loaders.card import Card, _Closed
from robustidps.traffic.loaders.looks import check_counts, counted, first_row, is_number, shown, stem_of
from robustidps.traffic.loaders.spec import TableSpec, columns_of
from robustidps.traffic.loaders.table import read_table
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["LookAlike", "PublicConfig", "PublicSet", "PublishedFile", "Release"]

_CLOSE = 0.7  # share of a release's columns that makes a stranger worth a word on what is missing


class PublishedFile(_Closed):
    """One file of a release. file: its name without ending. sha256: of the unpacked file, where known. day: of what
    is in it, where it has no times."""

    file: str
    rows: int = Field(gt=0)
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    day: date | None = None


class Release(_Closed):
    """One published form of a data set.

    files: its files by part; empty where files aren't told apart. rows: of all files together, where files aren't.
    official_split: whether parts are the set's own split, which are never joined unasked.
    label_from: `file` where a file has no label and its name is one, with a number behind it at most.
    campaign: what rows are not independent within. `run`: one attack in one file, or an hour of a file's benign
        traffic (all of it where there are no times). `file`: a file is one capture. Empty: nobody knows.
    samples: whether a selection of its rows may be used; not where the header doesn't say what a file is.
    notes: what a result from it must say.
    """

    title: str
    table: TableSpec
    files: dict[str, PublishedFile] = Field(default_factory=dict)
    rows: int | None = None
    official_split: bool = False
    label_from: Literal["column", "file"] = "column"
    campaign: Literal["", "run", "file"] = ""
    samples: bool = True
    notes: tuple[str, ...] = ()


class LookAlike(_Closed):
    """A file that is taken for the set and isn't used: so many fields, or these columns among its header."""

    what: str
    remedy: str
    fields: int | None = None
    columns: tuple[str, ...] = ()


class PublicConfig(Card):
    """What `configs/datasets/NAME.yaml` holds."""

    defects: tuple[str, ...] = ()
    releases: dict[str, Release] = Field(min_length=1)
    look_alikes: tuple[LookAlike, ...] = ()


@cache
def _config(name: str) -> PublicConfig:
    return load_yaml(CONFIGS / "datasets" / f"{name}.yaml", PublicConfig)


class PublicSet:
    """The loader of one data set; see the module's text."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def config(self) -> PublicConfig:
        return _config(self.name)

    def describe(self) -> dict[str, Any]:
        config = self.config
        files = {
            f"{part}, {release.title}" if len(config.releases) > 1 else part: file.model_dump(mode="json")
            for release in config.releases.values()
            for part, file in release.files.items()
        }
        return {
            "name": self.name,
            **config.model_dump(include={"title", "source", "licence", "citation", "card"}),
            "releases": {
                name: {
                    "title": release.title,
                    "classes": list(release.table.classes),
                    "features": len(release.table.features),
                    "dropped_columns": dict(release.table.drop),
                }
                for name, release in config.releases.items()
            },
            "parts": files,
            "defects": list(config.defects),
        }

    def identify(self, path: Path, *, progress: Progress = silent) -> Recognised | None:
        found = self._find(path, progress)
        return found[1] if found else None

    def load(
        self,
        path: Path,
        *,
        part: str | None = None,
        schema: Path | str | TableSpec | None = None,
        limit: int | None = None,
        progress: Progress = silent,
    ) -> TrafficSet:
        """Rows of one part, or of all where parts are no split of their own.

        Args:
            limit: about how many rows of each file are read, evenly spread over it; provenance says 1 in how many.

        Raises:
            DatasetError: nothing there is a release, the part isn't there, a file isn't what it should be.
        """
        if schema is not None:
            raise DatasetError("has a schema of its own", where=path, remedy="leave out the schema, or use `table`")
        found = self._find(path, progress)
        if found is None:
            titles = "; ".join(dict.fromkeys(r.title for r in self.config.releases.values()))
            raise DatasetError(
                f"holds no file of {self.config.title}", where=path, remedy=f"known: {titles} ({self.config.card})"
            )
        release, known = found
        chosen = self._chosen(path, part, release, known)
        sets = [self._read(file, name, release, known, limit, progress) for name, file in chosen.items()]
        files = [s.provenance for s in sets]
        traffic = sets[0] if len(sets) == 1 else TrafficSet.concat(sets)
        title = known.release
        if release.official_split and len(chosen) == 1 and (one := release.files.get(next(iter(chosen)))):
            title = f"{release.title} {one.file}"
        facts = files[0] if len(files) == 1 else _together(files, known)
        return replace(
            traffic,
            provenance=facts | {"loader": self.name, "release": title, "part": part, "notes": list(known.notes)},
        )

    # --- Recognising

    def _find(self, path: Path, progress: Progress) -> tuple[Release, Recognised] | None:
        by_release: dict[str, list[Path]] = {}
        unused: dict[str, str] = {}
        problems: list[DatasetError] = []
        for file in data_files(path):
            try:
                columns = first_row(file)
                name = self._release_of(columns, file)
                if name is not None:
                    by_release.setdefault(name, []).append(file)
                    continue
                self._refuse_look_alike(columns, file)
            except DatasetError as error:
                problems.append(error)
                unused[shown(file, path)] = error.problem
        if not by_release:
            if problems:
                raise problems[0]
            return None
        if len(by_release) > 1:
            listed = "; ".join(
                f"{self.config.releases[name].title}: {', '.join(shown(f, path) for f in files[:3])}"
                + (f" and {len(files) - 3} more" if len(files) > 3 else "")
                for name, files in by_release.items()
            )
            raise DatasetError(
                f"mixes releases of {self.config.title}. {listed}",
                where=path,
                remedy="put each release into a folder of its own, or name one file",
            )
        broken = next((problem for problem in problems if not isinstance(problem, _LookAlikeError)), None)
        if broken is not None:
            raise broken
        name, files = next(iter(by_release.items()))
        release = self.config.releases[name]
        return release, self._told_apart(path, release, files, unused, progress)

    def _release_of(self, columns: list[str], file: Path) -> str | None:
        """The release whose header a file has.

        Raises:
            DatasetError: it has no label column, and its name is no label.
        """
        for name, release in self.config.releases.items():
            table = release.table
            if not table.header:
                if len(columns) == len(table.columns) and any(is_number(c) for c in columns):
                    return name
            elif columns_of(columns, table).fit:
                if release.label_from == "file":
                    self._label_of(file, release)
                return name
        return None

    def _refuse_look_alike(self, columns: list[str], file: Path) -> None:
        """Raises _LookAlikeError for what the configuration knows, and for what is nearly a release."""
        spec = next(iter(self.config.releases.values())).table
        header = {spec.key(c) for c in columns}
        headless = any(is_number(c) for c in columns)
        for alike in self.config.look_alikes:
            if (alike.fields is None or (headless and len(columns) == alike.fields)) and {
                spec.key(c) for c in alike.columns
            } <= header:
                raise _LookAlikeError(alike.what, where=file, remedy=alike.remedy)
        fits = [(columns_of(columns, r.table), r) for r in self.config.releases.values() if r.table.header]
        nearest = max(fits, key=lambda fit: len(fit[0].index) / len(fit[1].table.used), default=None)
        if nearest and len(nearest[0].index) >= _CLOSE * len(nearest[1].table.used):
            fit, release = nearest
            parts = [
                f"column {', '.join(repr(printable(c, 60)) for c in names[:4])} {what}"
                for names, what in ((fit.missing, "missing"), (fit.extra, "unknown"), (fit.doubled, "twice"))
                if names
            ]
            raise _LookAlikeError(
                f"is nearly {release.title}, but not: {'; '.join(parts)}",
                where=file,
                remedy=f"get a published release ({self.config.card}), or load it as a table with a schema of its own",
            )

    def _told_apart(
        self, path: Path, release: Release, files: list[Path], unused: dict[str, str], progress: Progress
    ) -> Recognised:
        """Published files from samples, by their rows."""
        parts: dict[str, Path] = {}
        rows: dict[str, int] = {}
        strays: dict[str, Path] = {}
        notes: list[str] = []
        contents: dict[str, Path] = {}
        for file in files:
            check_counts(file, release.table)
            n, digest = counted(file, release.table, progress)
            if digest and (twin := contents.setdefault(digest, file)) != file:
                raise DatasetError(
                    f"holds the same file twice: {shown(twin, path)} and {shown(file, path)}",
                    where=path,
                    remedy="remove one of them",
                )
            part = next((p for p, f in release.files.items() if f.rows == n), None)
            name = part or shown(file, path)
            if name in parts:
                raise DatasetError(
                    f"{shown(parts[name], path)} and {shown(file, path)} both have the {n} rows of {name}",
                    where=path,
                    remedy="remove one of them",
                )
            rows[name] = n
            if part is None:
                strays[name] = file
                continue
            parts[name] = file
            published = release.files[part]
            if published.sha256 and digest and digest != published.sha256:
                notes.append(f"{file.name}: the rows of {published.file}, other bytes")
            other = next((f.file for p, f in release.files.items() if p != part and _called(file, f)), None)
            if other is not None:
                notes.append(f"{file.name} has the {n} rows of the {part} part: the names circulate swapped")
        expected = ", ".join(f"{f.file} {f.rows}" for f in release.files.values())
        if strays and (parts or not release.samples):
            name, file = next(iter(strays.items()))
            raise DatasetError(
                f"fits no published file of {release.title}: it has {rows[name]} rows",
                where=file,
                remedy=f"fetch it again, or put samples into a folder of their own; rows by file: {expected}",
            )
        total = sum(rows.values())
        title = release.title
        if strays and release.rows != total:
            known = release.rows or release.files
            title = f"{'a sample of ' if known else ''}{title}: {total} rows in {_plural(len(files), 'file')}"
        elif parts and len(parts) < len(release.files) and not release.official_split:
            title = f"{release.title}, {len(parts)} of {len(release.files)} files"
        dropped: dict[str, str] = {}
        for file in files if release.table.header else ():
            dropped |= columns_of(first_row(file), release.table).dropped
        return Recognised(
            loader=self.name,
            release=title,
            parts=parts or strays,
            notes=(*notes, *release.notes),
            rows=rows,
            classes=release.table.classes,
            dropped=dropped or dict(release.table.drop),
            unusable=release.table.unusable,
            unused=unused,
        )

    # --- Reading

    def _chosen(self, path: Path, part: str | None, release: Release, known: Recognised) -> dict[str, Path]:
        if part is not None:
            if part in known.parts:
                return {part: known.parts[part]}
            if part not in release.files:
                raise DatasetError(
                    f"has no part '{printable(part, 40)}'", where=self.name, remedy=f"parts: {', '.join(known.parts)}"
                )
            only = next(iter(known.parts))
            problem = f"is {only}, not {part}" if path.is_file() else f"has no {release.files[part].file}"
            raise DatasetError(problem, where=path, remedy=f"there are: {', '.join(known.parts)}")
        if release.official_split and len(known.parts) > 1 and set(known.parts) <= set(release.files):
            raise DatasetError("holds several parts", where=path, remedy=f"name one of {', '.join(known.parts)}")
        return known.parts

    def _read(
        self, file: Path, name: str, release: Release, known: Recognised, limit: int | None, progress: Progress
    ) -> TrafficSet:
        every = max(1, -(-known.rows[name] // limit)) if limit else 1
        traffic = read_table(file, release.table, every=every, progress=progress)
        day = next((f.day for p, f in release.files.items() if p == name or _called(file, f)), None)
        n = len(traffic)
        if release.label_from == "file":
            label, word = self._label_of(file, release)
            traffic = replace(traffic, labels=np.full(n, label, np.int16), tool=np.full(n, word, dtype=object))
        if day is not None and not traffic.has_time:
            seconds = datetime.combine(day, time(), UTC).timestamp()
            traffic = replace(traffic, time=np.full(n, seconds))
        if release.campaign == "file":
            traffic = replace(traffic, campaign=np.full(n, stem_of(file), dtype=object))
        elif release.campaign == "run" and (traffic.has_time or name in release.files):
            traffic = replace(traffic, campaign=_runs(traffic, stem_of(file)))
        return traffic

    def _label_of(self, file: Path, release: Release) -> tuple[int, str]:
        """The class and the word that a file's name stands for."""
        table = release.table
        word = table.key(stem_of(file)).rstrip("0123456789 ")
        if word not in table.label_index:
            raise DatasetError(
                f"has no label column, and its name is no label of {release.title}",
                where=file,
                remedy=f"give it its published name, such as {list(table.words.values())[-1]}.csv",
            )
        return table.label_index[word], table.words[word]


class _LookAlikeError(DatasetError):
    """A file that isn't one of ours; no reason to refuse those beside it."""


def _together(files: list[dict[str, Any]], known: Recognised) -> dict[str, Any]:
    """The provenance of several files: what holds for all, then each."""
    dropped: dict[str, dict[str, int]] = {}
    for facts in files:
        for reason, counts in facts.get("dropped_rows", {}).items():
            total = dropped.setdefault(reason, {})
            for label, n in counts.items():
                total[label] = total.get(label, 0) + n
    return {
        "rows": sum(facts["rows"] for facts in files),
        "dropped_columns": known.dropped,
        "dropped_rows": dropped,
        "files": files,
    }


def _runs(traffic: TrafficSet, stem: str) -> Any:
    """Campaigns [N]: an attack in a file, or an hour of its benign traffic (all of it where the day alone is known)."""
    tools, code = np.unique(traffic.tool.astype(str), return_inverse=True)
    names = np.array([f"{stem}: {tool}" for tool in tools], dtype=object)[code]
    benign = traffic.labels <= 0
    if len(np.unique(traffic.time)) > 1:
        hours = (traffic.time // 3600 % 24).astype(int)
        hourly = np.array([f"{stem}: {h:02d} h" for h in range(24)], dtype=object)
        names[benign] = hourly[hours[benign]]
    names[traffic.labels == UNLABELLED] = ""
    return names


def _called(file: Path, published: PublishedFile) -> bool:
    return stem_of(file).casefold() == published.file.casefold()


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
