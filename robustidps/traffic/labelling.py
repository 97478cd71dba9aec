"""Labelled traffic from real captures: one capture or a folder of them, and what a label file says about them.

    labelled_capture    one capture, labelled by a file or given a class outright
    labelled_captures   a folder of captures, as one `TrafficSet`

Labels come in two forms (`labelfile.py`): a class for a whole capture, or rows that name endpoints and times, which
are joined to flows (`labels.py`). Every flow is kept: what has no label, labels that disagree, or one that the schema
has no class for is unlabelled, and counted by reason in the `LabelReport`. A label file that doesn't belong to the
captures, or whose clock is another, is an error that says so (`labelcheck.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from robustidps.errors import CaptureError, ConfigError, DatasetError, RobustIDPSError, printable
from robustidps.progress import Progress, silent
from robustidps.traffic.capture import CAPTURE_SUFFIXES, FlowTable, Limits, extract, extract_many
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.labelcells import time_zone
from robustidps.traffic.labelcheck import check_flow_labels
from robustidps.traffic.labelfile import CaptureLabels, FlowLabels, read_labels
from robustidps.traffic.labelreport import SHOWN, LabelOptions, LabelReport, some
from robustidps.traffic.labels import ANY, Endpoints, Truth, match
from robustidps.traffic.labelwords import LabelWords, fold, label_words
from robustidps.traffic.trafficset import UNLABELLED, TrafficSet

__all__ = ["LabelOptions", "LabelReport", "capture_truth", "labelled_capture", "labelled_captures"]

_LIMITS, _OPTIONS = Limits(), LabelOptions()
_BLOCK_S = 600
"""Benign flows of one kind and ten minutes are a campaign, where the label file names none."""
_SILENT = "no label speaks of it"


def labelled_capture(
    path: Path | str,
    labels: Path | str | None = None,
    *,
    label: str | None = None,
    options: LabelOptions = _OPTIONS,
    limits: Limits = _LIMITS,
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> tuple[TrafficSet, LabelReport]:
    """Flows of one capture, labelled by a file, or all of class `label`. Arguments and result as `labelled_captures`.

    A file of labels of whole captures is searched for this one: by its path, or by its name where that is there once.

    Raises:
        CaptureError: as `capture.ingest`. DatasetError, ConfigError: as `labelled_captures`; a label without a class.
    """
    path = Path(path)
    words, zone = label_words(options.words), time_zone(options.timezone)
    read: CaptureLabels | FlowLabels
    name, others = path.name, 0
    if labels is not None:
        read = read_labels(labels, zone=zone, progress=progress)
        if isinstance(read, CaptureLabels):
            name = _entry(path, read)
            others = len(read) - 1
            read = replace(read, label={name: read.label[name]}, row={name: read.row[name]})
    else:
        if words.code(label or "") == UNLABELLED:
            raise ConfigError(
                f"'{printable(label, 60)}' is no class", where="--label", remedy=f"classes: {', '.join(words.classes)}"
            )
        read = CaptureLabels(Path("--label"), "", {name: label or ""}, {name: 1}, ())
    table = extract(path, limits=limits, truncated=truncated, progress=progress)
    if not len(table):
        raise CaptureError("holds no IP flow", where=path, remedy="capture where IP traffic passes")
    return _labelled({name: table}, {}, read, words, options, progress, others)


def capture_truth(
    path: Path | str,
    labels: Path | str | None = None,
    *,
    label: str | None = None,
    options: LabelOptions = _OPTIONS,
    progress: Progress = silent,
) -> Truth:
    """What labels say about one capture, for a join of one's own; arguments as for `labelled_capture`, which checks
    whether they belong to it. Words without a class stay as they are.

    Raises:
        DatasetError, ConfigError: as `labelled_capture`.
    """
    words, path = label_words(options.words), Path(path)
    if labels is not None:
        read = read_labels(labels, zone=time_zone(options.timezone), progress=progress)
        if isinstance(read, FlowLabels):
            return _spoken(read.truth, words, options.shift_s)
        label = read.label[_entry(path, read)]
    open_ = {name: np.array([ANY], np.int32) for name in ("src_port", "dst_port", "protocol")}
    texts = {"src_ip": "", "dst_ip": "", "label": label or "", "campaign": printable(path.name), "tool": path.stem}
    return _spoken(
        Truth(
            start=np.array([-np.inf]),
            end=np.array([np.inf]),
            **open_,
            **{name: np.array([text], dtype=object) for name, text in texts.items()},
        ),
        words,
        0.0,
    )


def labelled_captures(
    folder: Path | str,
    labels: Path | str,
    *,
    options: LabelOptions = _OPTIONS,
    limits: Limits = _LIMITS,
    truncated: Literal["refuse", "use"] = "refuse",
    progress: Progress = silent,
) -> tuple[TrafficSet, LabelReport]:
    """Flows of all captures under `folder`, labelled; NFStream is started once.

    Rows are ordered by capture, then as in `FlowTable`. `source` is the capture's path within the folder. Under labels
    of whole captures that is the campaign too, and `tool` is the name of the file without its suffix.

    A capture that can't be read (damaged, hostile, over a limit) is left out and named in the report.

    Raises:
        DatasetError: a label file that can't be used, or that isn't of these captures.
        CaptureError: no capture there, or no IP flow in any.
        ConfigError: an unknown time zone, a mapping file that can't be used.
        MissingExtraError: NFStream isn't installed.
    """
    folder = Path(folder)
    words, zone = label_words(options.words), time_zone(options.timezone)
    read = read_labels(labels, zone=zone, progress=progress)
    if not folder.is_dir():
        raise CaptureError("is no folder" if folder.exists() else "no such folder", where=folder)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in CAPTURE_SUFFIXES and p.is_file())
    if not paths:
        raise CaptureError("holds no capture", where=folder, remedy=f"captures end in {', '.join(CAPTURE_SUFFIXES)}")
    names = {path: path.relative_to(folder).as_posix() for path in paths}
    if isinstance(read, CaptureLabels) and not read.label.keys() & set(names.values()):
        raise _of_others(read, f"none of the {len(paths)} under {folder}")
    tables: dict[str, FlowTable] = {}
    failed: dict[str, str] = {}
    progress("extracting flows", 0, len(paths), unit="captures")
    for done, (path, found) in enumerate(extract_many(paths, limits=limits, truncated=truncated), start=1):
        if isinstance(found, RobustIDPSError):
            failed[printable(names[path])] = found.problem
        else:
            tables[names[path]] = found
        progress("extracting flows", done, len(paths), unit="captures", note=printable(path.name, 40))
    if not sum(map(len, tables.values())):
        raise CaptureError(f"no IP flow in any of {len(paths)} captures ({len(failed)} can't be read)", where=folder)
    return _labelled(tables, failed, read, words, options, progress)


def _entry(path: Path, labels: CaptureLabels) -> str:
    """The name under which a label file speaks of one capture."""
    whole = "/" + path.absolute().as_posix().lstrip("/")
    same = [name for name in labels.label if name.rsplit("/", 1)[-1] == path.name]
    fitting = [name for name in same if whole.endswith("/" + name.lstrip("/"))]
    if fitting:
        return max(fitting, key=len)
    if len(same) > 1:
        rows = some((labels.row[name] for name in same), 5)
        raise DatasetError(
            f"rows {rows} could mean {printable(path.name, 100)}", where=labels.path, remedy="say which with --label"
        )
    if not same:
        raise _of_others(labels, f"not {path.name}")
    return same[0]


def _of_others(labels: CaptureLabels, whose: str) -> DatasetError:
    return DatasetError(
        f"is for other captures: it labels {len(labels)} ({some(labels.label)}), {whose}",
        where=labels.path,
        remedy="give the label file of these captures; names are paths within the folder",
    )


@dataclass
class _Result:
    """codes, campaign, tool: per flow. reasons: unlabelled flows by reason. The rest as in `LabelReport`."""

    codes: npt.NDArray[np.int16]
    campaign: npt.NDArray[Any]
    tool: npt.NDArray[Any]
    reasons: Counter[str]
    unused: int
    elsewhere: int = 0
    several: int = 0


def _labelled(
    tables: dict[str, FlowTable],
    failed: dict[str, str],
    labels: CaptureLabels | FlowLabels,
    words: LabelWords,
    options: LabelOptions,
    progress: Progress,
    others: int = 0,
) -> tuple[TrafficSet, LabelReport]:
    """The flows of `tables` (by the capture's name) under the labels; `others` labels are for other captures."""
    progress("joining labels", 0, None, unit="labels")
    if isinstance(labels, FlowLabels):
        result = _by_flow(tables, labels, words, options)
    else:
        result = _by_capture(tables, labels, words, options)
    progress("joining labels", len(labels), len(labels), unit="labels")
    sizes = [len(t) for t in tables.values()]
    names = np.array([printable(name) for name in tables], dtype=object)
    classes = np.bincount(result.codes[result.codes != UNLABELLED], minlength=len(words.classes))
    report = LabelReport(
        file=printable(labels.path.name),
        sha256=labels.sha256,
        kind="flows" if isinstance(labels, FlowLabels) else "captures",
        labels=len(labels) + others,
        captures=len(tables) + len(failed),
        empty=sizes.count(0),
        failed=failed,
        flows=sum(sizes),
        classes={name: int(n) for name, n in zip(words.classes, classes, strict=True) if n},
        unlabelled=dict(sorted(result.reasons.items())),
        unused=result.unused,
        elsewhere=result.elsewhere + others,
        several=result.several,
        ignored=labels.ignored,
        notes=tuple(_slips(labels, words)),
    )
    if not report.labelled:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in report.unlabelled.items())
        raise DatasetError(
            f"none of {report.flows} flows got a label ({reasons})",
            where=labels.path,
            remedy="say which class its words stand for with --label-words FILE (docs/data.md)",
        )
    traffic = TrafficSet.build(
        FLOW64,
        np.concatenate([t.features for t in tables.values()]),
        result.codes,
        time=np.concatenate([t.first_seen for t in tables.values()]),
        source=np.repeat(names, sizes),
        campaign=result.campaign,
        tool=result.tool,
        provenance={
            "loader": "labelled captures",
            "labels": report.to_dict(),
            "captures": {
                str(name): {"sha256": t.report.sha256, "packets": t.report.packets, "flows": len(t)}
                | ({"truncated": t.report.damage} if t.report.truncated else {})
                for name, t in zip(names, tables.values(), strict=True)
            },
        },
    )
    return traffic, report


def _by_capture(
    tables: dict[str, FlowTable], labels: CaptureLabels, words: LabelWords, options: LabelOptions
) -> _Result:
    """Whole captures: a flow has its capture's class; the capture is its campaign, the file's stem its tool."""
    codes, reasons = [], Counter[str]()
    for name, table in tables.items():
        word = labels.label.get(name)
        code = words.code(word) if word else UNLABELLED
        if word is None and options.unmatched == "benign":
            code = 0
        elif code == UNLABELLED:
            reasons[_why(word)] += len(table)
        codes.append(np.full(len(table), code, np.int16))
    sizes = [len(t) for t in tables.values()]
    campaign, tool = (np.array([printable(f(n)) for n in tables], dtype=object) for f in (str, lambda n: Path(n).stem))
    lost = [name for name in labels.label if not len(tables.get(name, ()))]
    if len(lost) > options.max_unmatched * len(labels):
        rows = some(f"row {labels.row[name]}: {name}" for name in lost)
        raise DatasetError(
            f"{len(lost)} of its {len(labels)} captures aren't there or gave no flow, over the share of "
            f"{options.max_unmatched:g} ({rows})",
            where=labels.path,
            remedy="is it this folder's label file? If so, allow it with --max-unmatched",
        )
    return _Result(np.concatenate(codes), np.repeat(campaign, sizes), np.repeat(tool, sizes), +reasons, len(lost))


def _by_flow(tables: dict[str, FlowTable], labels: FlowLabels, words: LabelWords, options: LabelOptions) -> _Result:
    """Labels of flows: joined by endpoints, protocol and time."""
    flows = Endpoints.of([t for t in tables.values() if len(t)])
    truth = _spoken(labels.truth, words, options.shift_s)
    found = match(flows, truth, tolerance_s=options.tolerance_s)
    elsewhere = np.ones(len(truth), bool)
    for table in tables.values():
        if len(table):
            first, last = table.first_seen.min() - options.tolerance_s, table.first_seen.max() + options.tolerance_s
            elsewhere &= (truth.start > last) | (truth.end < first)
    check_flow_labels(flows, labels, truth, found, elsewhere, options)

    got = found.owner >= 0
    index = {name: i for i, name in enumerate(words.classes)}
    of_row = np.array([index.get(word, UNLABELLED) for word in truth.label.tolist()], np.int16)
    codes = np.full(len(got), UNLABELLED, np.int16)
    codes[got] = of_row[found.owner[got]]
    campaign, tool = np.full(len(got), "", dtype=object), np.full(len(got), "", dtype=object)
    campaign[got], tool[got] = truth.campaign[found.owner[got]], truth.tool[found.owner[got]]
    reasons = Counter(_why(w) for w in truth.label[found.owner[got & (codes == UNLABELLED)]].tolist())
    reasons["labels that disagree"] = int(found.ambiguous.sum())
    rest = ~got & ~found.ambiguous
    if options.unmatched == "benign":
        codes[rest], tool[rest] = 0, "unmatched"
    else:
        reasons[_SILENT] = int(rest.sum())
    nameless = np.flatnonzero((campaign == "") & (codes != UNLABELLED))
    campaign[nameless] = _campaigns(tool[nameless], codes[nameless], flows.first_seen[nameless])
    unused = int(((found.held == 0) & ~elsewhere).sum())
    several = int(((found.held > 1) & truth.exact).sum())
    return _Result(codes, campaign, tool, +reasons, unused, int(elsewhere.sum()), several)


def _spoken(truth: Truth, words: LabelWords, shift_s: float) -> Truth:
    """The rows of a label file as they are joined: class names for words that have one, words as tools."""
    spelling: dict[str, str] = {}  # one for words that differ in case and dashes alone, whatever order they come in
    first: dict[str, str] = {}
    for word in sorted(set(truth.label.tolist())):
        spelling[word] = first.setdefault(fold(word) or word, printable(word, 60))
    name = {word: words.classes[code] if (code := words.code(word)) >= 0 else word for word in spelling.values()}
    rows = [spelling[word] for word in truth.label.tolist()]
    shown = {text: printable(text) for text in {*truth.tool.tolist(), *truth.campaign.tolist()}}
    tool = [shown[given] or word for given, word in zip(truth.tool.tolist(), rows, strict=True)]
    return replace(
        truth,
        label=np.array([name[word] for word in rows], dtype=object),
        tool=np.array(tool, dtype=object),
        campaign=np.array([shown[given] for given in truth.campaign.tolist()], dtype=object),
        start=truth.start + shift_s,
        end=truth.end + shift_s,
    )


def _campaigns(tool: npt.NDArray[Any], codes: npt.NDArray[np.int16], when: npt.NDArray[np.float64]) -> npt.NDArray[Any]:
    """Campaigns of flows whose labels name none: an attack's word on one day (UTC); of benign flows, ten minutes.

    Rows of one campaign stay on one side of a split, so all benign flows of a day in one would leave nothing to test.
    """
    length = np.where(codes == 0, _BLOCK_S, 86_400)
    begin = (when // length * length).astype(np.int64)
    names = {
        (word, at, long): f"{word} {np.datetime64(at, 's').astype('datetime64[D]' if long else 'datetime64[m]')}"
        for word, at, long in set(zip(tool.tolist(), begin.tolist(), (codes != 0).tolist(), strict=True))
    }
    rows = zip(tool.tolist(), begin.tolist(), (codes != 0).tolist(), strict=True)
    return np.array([names[row] for row in rows], dtype=object)


def _why(word: str | None) -> str:
    if word is None:
        return _SILENT
    return f"no class for '{printable(word, 60)}'" if word else "its label is empty"


def _slips(labels: CaptureLabels | FlowLabels, words: LabelWords) -> list[str]:
    """Words without a class that come near one."""
    found: Iterable[str] = labels.label.values() if isinstance(labels, CaptureLabels) else labels.truth.label.tolist()
    lost = sorted({word for word in found if word and words.code(word) == UNLABELLED})
    near = ((printable(word, 60), words.near(word)) for word in lost[:1000])
    return [f"'{word}' has no class; perhaps {name}? (--label-words FILE)" for word, name in near if name][:SHOWN]
