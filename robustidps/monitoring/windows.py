"""Windows on record: what was measured, what was made of it, and how one gets from traffic to its row and alarm.

`Case.of` gathers what a model's traffic is compared with; `next_windows` says which windows there are to look at;
`look` measures one; `enter` puts it on record, and its alarm into the ledger. Entering is under a lock a model, and
what was cut short in the middle is finished when the same window is entered again: a window whose row says that its
alarm is to be told has that alarm in the ledger afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import sqlalchemy as sa
from pydantic import ValidationError

from robustidps.errors import DatasetError, IntegrityError, NotFoundError, UnavailableError, printable
from robustidps.evaluation.drift import DriftSettings
from robustidps.evaluation.reference import ReferenceProfile, read_profile
from robustidps.monitoring.alarm import Base, alarming, reasons, silenced
from robustidps.monitoring.figures import Measured, WindowFigures, measure
from robustidps.monitoring.reviews import anchor_version, in_force, reviews
from robustidps.monitoring.window import Range, Window, collect, moment, ranges, span
from robustidps.progress import Progress, silent
from robustidps.registry import state
from robustidps.registry.ledger import Decision
from robustidps.traffic.trafficset import TrafficSet

if TYPE_CHECKING:
    from robustidps.bundle import Bundle
    from robustidps.monitoring.reviews import Review
    from robustidps.registry.registry import ModelRegistry

__all__ = [
    "ID",
    "Case",
    "DriftWindow",
    "Entered",
    "announced",
    "enter",
    "look",
    "next_windows",
    "position",
    "report_folder",
    "reported",
    "reviews_of",
    "training_rows",
    "unannounced",
    "window",
    "windows",
]

RECENT = 50
"""Windows before the latest that are read to judge it: enough to see when its alarm was told last."""
ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


@dataclass(frozen=True)
class DriftWindow:
    """One row of `drift_window`. began, ended: time of the window's first and last flow, or of looking at it where
    flows have no times. figures: `measured`, `reasons`, `silenced`, `anchor`, `notes`, and what was told of its alarm.
    report: folder of its pages, relative to HOME/reports."""

    model: str
    id: str
    version: str
    began: datetime
    ended: datetime
    rows: int
    digest: str
    drifted: bool
    alarm: bool
    figures: dict[str, Any] = field(repr=False)
    report: str
    created_at: datetime

    @cached_property
    def measured(self) -> WindowFigures:
        """Raises IntegrityError where the row doesn't hold figures."""
        try:
            return WindowFigures.model_validate(self.figures.get("measured"))
        except ValidationError as error:
            raise IntegrityError(
                f"its row was edited: {printable(error.errors()[0]['msg'])}", where=f"{self.model} {self.id}"
            ) from None

    @property
    def reasons(self) -> list[str]:
        return [str(r) for r in self.figures.get("reasons") or ()]

    @property
    def silenced(self) -> str | None:
        return self.figures.get("silenced")

    @property
    def anchor(self) -> str | None:
        """The version whose reference is the early anchor; None where the window was compared with none."""
        return self.figures.get("anchor")

    @property
    def notes(self) -> list[str]:
        return [str(n) for n in self.figures.get("notes") or ()]

    @property
    def status(self) -> str:
        """`alarm`, `silenced` (it would be one), `drifted` or `steady`."""
        return "alarm" if self.alarm else "silenced" if self.silenced else "drifted" if self.drifted else "steady"

    def as_dict(self) -> dict[str, Any]:
        kept = ("model", "id", "version", "rows", "digest", "drifted", "alarm", "report")
        figures = self.measured
        return {k: getattr(self, k) for k in kept} | {
            "began": self.began.isoformat(),
            "ended": self.ended.isoformat(),
            "status": self.status,
            "reasons": self.reasons,
            "silenced": self.silenced,
            "anchor": self.anchor,
            "notes": self.notes,
            "share_moved": figures.reference.share,
            "share_moved_anchor": figures.anchor.share if figures.anchor else None,
            "prediction_distance": figures.reference.prediction_distance,
            "alert_share": figures.alert_share,
            "labelled": figures.labelled.model_dump(mode="json") if figures.labelled else None,
        }


def windows(registry: ModelRegistry, model: str, *, last: int | None = None) -> list[DriftWindow]:
    """A model's windows, oldest first; the newest `last` of them. Raises NotFoundError for an unknown model."""
    registry.assignment(model)
    return _rows(registry, model, last=last)


def _rows(
    registry: ModelRegistry, model: str, *which: Any, last: int | None = None, first: int | None = None
) -> list[DriftWindow]:
    """A model's windows that meet all conditions, oldest first: all, the newest `last` or the earliest `first`."""
    table = state.drift_window
    query = sa.select(table).where(table.c.model == model, *which)
    order = (table.c.ended, table.c.created_at)
    query = query.order_by(*order) if last is None else query.order_by(*(column.desc() for column in order))
    with registry.store.read() as connection:
        rows = connection.execute(query.limit(last if last is not None else first)).mappings().all()
    return [_window(row) for row in (rows if last is None else reversed(rows))]


def position(registry: ModelRegistry, row: DriftWindow) -> int:
    """Which of its version's windows one is, in order of time; the first is 1."""
    table = state.drift_window
    which = (table.c.model == row.model, table.c.version == row.version, table.c.ended <= row.ended.isoformat())
    with registry.store.read() as connection:
        return int(connection.execute(sa.select(sa.func.count()).where(*which).select_from(table)).scalar() or 0)


def window(registry: ModelRegistry, model: str, window_id: str) -> DriftWindow:
    """One window; `latest` is the newest. Raises NotFoundError naming some that there are."""
    known = windows(registry, model, last=4)
    found = known[-1:] if window_id == "latest" else _rows(registry, model, state.drift_window.c.id == window_id)
    if not found:
        names = ", ".join(w.id for w in known) or "none yet (robustidps monitor)"
        raise NotFoundError("no such window", where=f"{model} {printable(window_id, 80)}", remedy=f"there are: {names}")
    return found[0]


def _window(row: Any) -> DriftWindow:
    values = dict(row)
    try:
        if not ID.fullmatch(values["id"]):  # it names a folder
            raise ValueError(values["id"])
        values["figures"] = json.loads(values["figures"])
        for name in ("began", "ended", "created_at"):
            values[name] = datetime.fromisoformat(values[name])
    except (ValueError, TypeError):
        raise IntegrityError("its row was edited", where=f"{row['model']} {row['id']}") from None
    return DriftWindow(**values)


@dataclass(frozen=True)
class Case:
    """What traffic of a model is compared with."""

    model: str
    version: str
    bundle: Bundle
    reference: ReferenceProfile
    anchor_version: str | None
    anchor: ReferenceProfile | None
    validation_accuracy: float | None
    notes: tuple[str, ...]

    @classmethod
    def of(cls, registry: ModelRegistry, model: str) -> Case:
        """The case of the version in production.

        Raises:
            NotFoundError: none is in production. BundleError: its bundle was edited, or holds no reference profile.
            LedgerError: the ledger was edited.
        """
        record = registry.resolve(model, "production")
        bundle = registry.bundle(model, record.version)
        reference = read_profile(bundle.reference, f"{model} {record.version}: reference.json")
        with registry.store.read() as connection:
            first = anchor_version(registry.ledger.checked_of_model(connection, model))
        anchor, notes = None, []
        if first is None or first == record.version:
            notes.append(
                f"{record.version} is itself the first version of {model} in production: its reference is the anchor"
            )
        else:
            try:
                early = registry.bundle(model, first)
            except (NotFoundError, UnavailableError) as error:
                notes.append(f"not compared with the early anchor: the bundle of {first} can't be had ({error})")
            else:
                if early.schema.digest == bundle.schema.digest:
                    anchor = read_profile(early.reference, f"{model} {first}: reference.json")
                else:
                    notes.append(f"not compared with the early anchor: {first} has another schema")
        accuracy = bundle.metadata.performance_metrics.get("val_accuracy")
        return cls(
            model,
            record.version,
            bundle,
            reference,
            first if anchor is not None else None,
            anchor,
            None if accuracy is None else float(accuracy),
            tuple(notes),
        )


def next_windows(
    registry: ModelRegistry,
    model: str,
    traffic: Path,
    *,
    folder: Path,
    since: float | None = None,
    until: float | None = None,
    length_s: float | None = None,
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> tuple[list[Path], list[Range]]:
    """The files of traffic, and the windows in them that are to be looked at; none where nothing is newer.

    Args: as for `window.collect` and `window.ranges`.

    Raises:
        NotFoundError: no version is in production. DatasetError, SchemaError, CaptureError: what is wrong with a file.
    """
    schema = registry.bundle(model, registry.resolve(model, "production").version).schema
    files = collect(traffic, folder=folder, truncated=truncated, progress=progress)
    known = windows(registry, model, last=1)
    before = known[-1].figures.get("measured", {}).get("last") if known else None
    whole = Window(tuple(files), schema, Range(since if since is not None else before, until))
    first, newest = span(whole)
    if newest is None:
        if not whole.range.open and span(Window(tuple(files), schema))[1] is not None:
            return files, []  # there are flows with times, and none in the range
        before = None  # flows without times: their digest tells whether they were looked at
    return files, ranges(first, newest, before=before, since=since, until=until, length_s=length_s)


def look(
    case: Case,
    files: list[Path],
    wanted: Range,
    *,
    settings: DriftSettings | None = None,
    progress: Progress = silent,
) -> Measured | None:
    """Measures a window; None where it holds fewer than `min_rows` flows, which then wait for the next.

    Raises:
        DatasetError, SchemaError: what is wrong with the traffic.
    """
    settings = settings or DriftSettings.load()
    made = Window(tuple(files), case.bundle.schema, wanted)
    try:
        found = measure(
            made,
            case.bundle,
            case.reference,
            case.anchor,
            threshold=settings.windows.psi,
            sample=settings.sample,
            seed=settings.seed,
            progress=progress,
        )
    except DatasetError as error:
        if error.where == "the window":
            return None
        raise
    return None if found.figures.rows < settings.min_rows else found


@dataclass(frozen=True)
class Entered:
    """A window on record. fresh: it wasn't before, or labels came back. alarm: the record of its alarm, if one was
    made now."""

    window: DriftWindow
    fresh: bool
    alarm: Decision | None


def enter(
    registry: ModelRegistry,
    case: Case,
    figures: WindowFigures,
    *,
    settings: DriftSettings | None = None,
    now: datetime | None = None,
) -> Entered:
    """Puts a window on record, with its alarm where it is one. The same flows once more are the same window: nothing
    changes, unless more of them are labelled now.

    Raises:
        LedgerError, IntegrityError: the ledger or a window's row was edited. StorageError, ConflictError.
    """
    settings = settings or DriftSettings.load()
    now = now or datetime.now(UTC)
    with registry.store.lock(f"monitor-{case.model}"):
        table = state.drift_window
        same = next(iter(_rows(registry, case.model, table.c.digest == figures.digest)), None)
        if same is not None and (same.version != case.version or not _more_labels(figures, same.measured)):
            return Entered(same, False, _tell(registry, same))
        with registry.store.read() as connection:
            decisions = registry.ledger.checked_of_model(connection, case.model)
        began, ended = (now if t is None else datetime.fromtimestamp(t, UTC) for t in (figures.first, figures.last))
        row = DriftWindow(
            model=case.model,
            id=same.id if same else f"{ended:%Y%m%dT%H%M%SZ}-{figures.digest[:8]}",
            version=case.version,
            began=same.began if same else began,
            ended=same.ended if same else ended,
            rows=figures.rows,
            digest=figures.digest,
            drifted=False,
            alarm=False,
            figures={"measured": figures.model_dump(mode="json"), "anchor": case.anchor_version, "notes": case.notes},
            report=same.report if same else "",
            created_at=same.created_at if same else now,
        )
        row = replace(row, report=f"drift/{row.model}/{row.id}")
        row = _judged(registry, row, case, decisions, settings, now)
        _write(registry, row, new=same is None)
        return Entered(row, True, _tell(registry, row))


def _more_labels(figures: WindowFigures, before: WindowFigures) -> bool:
    return (figures.labelled.rows if figures.labelled else 0) > (before.labelled.rows if before.labelled else 0)


def _judged(
    registry: ModelRegistry,
    row: DriftWindow,
    case: Case,
    decisions: list[Decision],
    settings: DriftSettings,
    now: datetime,
) -> DriftWindow:
    by_window = reviews(decisions)
    table, model = state.drift_window, case.model
    mine = (table.c.version == row.version, table.c.id != row.id, table.c.ended <= row.ended.isoformat())
    earlier = _rows(registry, model, *mine, last=max(settings.windows.n, RECENT))
    incidents = [r.window for r in by_window.values() if r.kind == "incident"]
    first = next((w.measured for w in _rows(registry, model, *mine, table.c.id.not_in(incidents), first=1)), None)
    figures = row.measured
    why = reasons(figures, Base(first, case.validation_accuracy), settings)
    alarm = alarming([w.drifted for w in earlier], bool(why), settings)
    quiet = None
    if alarm:
        ignoring, expected = in_force(by_window.values(), row.version, now)
        accepted = {w.id: w for w in _rows(registry, model, table.c.id.in_([r.window for r in expected]))}
        pairs = [(r, accepted[r.window].measured) for r in expected if r.window in accepted]
        quiet = silenced(figures, why, ignoring, pairs, settings, now)
    told = alarm and quiet is None and _due(row, earlier, settings)
    more = {"reasons": why, "silenced": quiet, "told": told}
    return replace(row, drifted=bool(why), alarm=alarm and quiet is None, figures=row.figures | more)


def _due(row: DriftWindow, earlier: list[DriftWindow], settings: DriftSettings) -> bool:
    """Whether an alarm is told: when it begins, and again after `repeat_h` hours for as long as it lasts."""
    if not earlier or not earlier[-1].alarm:
        return True
    told = [w.ended for w in earlier if w.alarm and w.figures.get("told")]
    return not told or row.ended - told[-1] >= timedelta(hours=settings.windows.repeat_h)


def _tell(registry: ModelRegistry, row: DriftWindow) -> Decision | None:
    """The alarm of a window into the ledger, where it is to be told and isn't there."""
    if not (row.alarm and row.figures.get("told")):
        return None
    with registry.store.read() as connection:
        decisions = registry.ledger.checked_of_model(connection, row.model)
    if any(d.action == "alarm" and d.evidence.get("window") == row.id for d in decisions):
        return None
    figures = row.measured
    evidence = {
        "window": row.id,
        "digest": row.digest,
        "rows": row.rows,
        "began": row.began.isoformat(),
        "ended": row.ended.isoformat(),
        "share_moved": figures.reference.share,
        "share_moved_anchor": figures.anchor.share if figures.anchor else None,
        "prediction_distance": figures.reference.prediction_distance,
        "alert_share": figures.alert_share,
        "report": row.report,
    }
    return registry.record(row.model, row.version, "alarm", reasons=row.reasons, evidence=evidence)


def _write(registry: ModelRegistry, row: DriftWindow, *, new: bool) -> None:
    table = state.drift_window
    values = {c.name: getattr(row, c.name) for c in table.columns} | {
        "began": row.began.isoformat(),
        "ended": row.ended.isoformat(),
        "created_at": row.created_at.isoformat(),
        "figures": json.dumps(row.figures, allow_nan=False),  # as it is: classes keep their order
    }
    with registry.store.write() as connection:
        if new:
            connection.execute(sa.insert(table).values(**values))
        else:
            connection.execute(
                sa.update(table).where(table.c.model == row.model, table.c.id == row.id).values(**values)
            )


def unannounced(registry: ModelRegistry, model: str) -> list[DriftWindow]:
    """Windows whose alarm is in the ledger and of which nobody was told yet, oldest first."""
    return [
        w
        for w in windows(registry, model, last=200)
        if w.alarm and w.figures.get("told") and not w.figures.get("announced")
    ]


def announced(registry: ModelRegistry, row: DriftWindow, now: datetime | None = None) -> None:
    """Keeps that the event of a window's alarm was sent."""
    when = (now or datetime.now(UTC)).isoformat()
    with registry.store.lock(f"monitor-{row.model}"):
        current = window(registry, row.model, row.id)
        _write(registry, replace(current, figures=current.figures | {"announced": when}), new=False)


def reviews_of(registry: ModelRegistry, model: str) -> dict[str, Review]:
    """The review in force for each window of a model. Raises LedgerError where the ledger was edited."""
    with registry.store.read() as connection:
        return reviews(registry.ledger.checked_of_model(connection, model))


def report_folder(registry: ModelRegistry, row: DriftWindow) -> Path:
    """Where a window's pages lie; from its model and name, never from its row, which somebody may have edited."""
    return registry.settings.home / "reports" / "drift" / row.model / row.id


def reported(registry: ModelRegistry, model: str, decisions: Iterable[Decision]) -> set[str]:
    """Windows whose pages somebody may still come for, however old: those that the ledger names (alarms, reviews,
    retrainings), those of an alarm that stands, and each version's newest, which MLflow's tag leads to."""
    column = state.drift_window.c
    query = sa.select(column.id, column.version, column.alarm).where(column.model == model)
    with registry.store.read() as connection:
        rows = connection.execute(query.order_by(column.ended, column.created_at)).all()
    standing = {row.id for row in takewhile(lambda row: row.alarm, reversed(rows))}
    newest = {row.version: row.id for row in rows}
    return {str(d.evidence["window"]) for d in decisions if "window" in d.evidence} | standing | {*newest.values()}


def training_rows(home: Path, bundle: Bundle) -> TrafficSet | None:
    """What a version was trained on, where training left it, if it is there and holds those very rows."""
    facts = bundle.metadata.training
    if facts is None:
        return None
    for path in sorted((home / "traffic").glob(f"*-{facts.data_digest[:16]}.parquet")):
        try:
            traffic = TrafficSet.read(path)
        except DatasetError:
            continue  # not readable: as good as gone
        if traffic.digest == facts.data_digest and traffic.schema.digest == bundle.schema.digest:
            return traffic
    return None


def described(wanted: Range) -> str:
    """A range in words."""
    ends = ["the beginning" if t is None else moment(t) for t in (wanted.since, wanted.until)]
    return f"{ends[0]} to {ends[1]}" if wanted.until is not None else "all there is"
