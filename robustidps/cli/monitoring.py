"""Commands about traffic in production: look at it, review what was found, retrain, serve the reports."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings, open_registry, ready_flows
from robustidps.cli._options import Json, Name, Truncated
from robustidps.errors import RefusedError

drift_app = typer.Typer(no_args_is_help=True, help="Windows of traffic: list, show, review.")
reports_app = typer.Typer(no_args_is_help=True, help="Report pages: serve them, draw the index anew.")
app.add_typer(drift_app, name="drift", rich_help_panel="Monitoring")
app.add_typer(reports_app, name="reports", rich_help_panel="Monitoring")

WindowId = Annotated[str, typer.Argument(metavar="WINDOW", help="its name (`robustidps drift list`), or `latest`")]
Host = Annotated[str, typer.Option(help="address to listen on")]
Names = Annotated[list[str] | None, typer.Option("--name", help="a name that people reach the pages under")]
_STATUS = {"alarm": "red", "silenced": "yellow", "drifted": "yellow", "steady": "green"}


@app.command(rich_help_panel="Monitoring")
def monitor(
    models: Annotated[list[str] | None, typer.Argument(help="which; default: all with a version in production")] = None,
    traffic: Annotated[
        Path | None,
        typer.Option("--traffic", help="a capture, a Parquet file or a folder; default: incoming/ in the home folder"),
    ] = None,
    since: Annotated[str | None, typer.Option(help="flows after this time (UTC); default: the window before")] = None,
    until: Annotated[str | None, typer.Option(help="flows up to this time (UTC); default: the newest flow")] = None,
    length: Annotated[
        float | None, typer.Option(help="hours: cut into windows this long; what fills none waits")
    ] = None,
    truncated: Truncated = "refuse",
    as_json: Json = False,
) -> None:
    """Compare new traffic with what the version in production was trained on; record it, raise an alarm."""
    ready_flows()
    from robustidps.flows.monitor import monitor as flow

    with console.bars(not as_json):
        result: dict[str, Any] = flow(
            models=models or None,
            traffic=str(traffic.absolute()) if traffic else None,
            since=since,
            until=until,
            length_h=length,
            truncated=truncated,
        )
    if as_json:
        console.emit_json(result)
        return
    for name, found in result["models"].items():
        for window in found["windows"]:
            text = f"{window['status']}: {window['rows']:,} flows, window {window['window']}"
            console.line(f"{name} {window['version']}", text, _STATUS[window["status"]])
            for reason in window["reasons"]:
                console.line("", reason)
            if window["silenced"]:
                console.line("", f"no alarm is raised: {window['silenced']}")
            console.remark(Path(window["page"]).as_uri())
        if not found["windows"]:
            console.line(name, found["outcome"])
    console.line("all models", Path(result["index"]).as_uri())


@app.command(rich_help_panel="Monitoring")
def retrain(name: Name, window: WindowId, as_json: Json = False) -> None:
    """Train a candidate on labels that came back, because of a window's alarm. Exit code 4 when it isn't trained."""
    from robustidps.monitoring.windows import window as one

    found = one(open_registry(), name, window)
    ready_flows()
    from robustidps.flows.retrain import retrain as flow

    with console.bars(not as_json):
        result = flow(model=name, window=found.id)
    if as_json:
        console.emit_json(result)
    elif result["trained"]:
        from robustidps.pages import show_training

        show_training(result)
    else:
        console.line(name, f"not retrained: {result['why']}", "yellow")
    if not result["trained"]:
        raise typer.Exit(RefusedError.exit_code)


@drift_app.command("list")
def list_windows(
    name: Name,
    last: Annotated[int, typer.Option(min=1, help="so many windows, the newest")] = 20,
    as_json: Json = False,
) -> None:
    """The windows that a model's traffic was looked at in, and what was made of them."""
    from robustidps.monitoring.windows import reviews_of, windows

    registry = open_registry()
    found = windows(registry, name, last=last)
    said = reviews_of(registry, name)
    if as_json:
        rows = [w.as_dict() | {"review": said[w.id].kind if w.id in said else None} for w in found]
        console.emit_json(rows)
        return
    if not found:
        console.remark(f"no window of {name} was looked at yet: robustidps monitor {name} --traffic FOLDER")
        return
    header = ["window", "version", "until (UTC)", "flows", "status", "moved", "from anchor", "alerts", "review"]
    lines = []
    for w in found:
        f = w.measured
        lines.append(
            [
                w.id,
                w.version,
                f"{w.ended:%Y-%m-%d %H:%M}",
                f"{w.rows:,}",
                w.status,
                f"{f.reference.share:.0%}",
                f"{f.anchor.share:.0%}" if f.anchor else "-",
                f"{f.alert_share:.2%}",
                said[w.id].kind if w.id in said else "",
            ]
        )
    console.table(f"traffic of {name}", header, lines, right=("flows", "moved", "from anchor", "alerts"))


@drift_app.command()
def show(name: Name, window: WindowId = "latest", as_json: Json = False) -> None:
    """One window: why it has drifted, which columns moved, what a reviewer made of it."""
    from robustidps.monitoring.reports import PAGE
    from robustidps.monitoring.windows import report_folder, reviews_of
    from robustidps.monitoring.windows import window as one

    registry = open_registry()
    row = one(registry, name, window)
    review = reviews_of(registry, name).get(row.id)
    if as_json:
        said = (
            {"as": review.kind, "reason": review.reason, "by": review.actor, "until": review.until} if review else None
        )
        console.emit_json(row.as_dict() | {"figures": row.measured.model_dump(mode="json"), "review": said})
        return
    figures = row.measured
    console.line(f"{name} {row.version}", f"{row.status}: {row.rows:,} flows, window {row.id}", _STATUS[row.status])
    for reason in row.reasons:
        console.line("", reason)
    if row.silenced:
        console.line("", f"no alarm is raised: {row.silenced}")
    if review:
        until = f" until {review.until:%Y-%m-%d}" if review.until else ""
        console.line("review", f"{review.kind}{until}, by {review.actor} ({review.actor_source}): {review.reason}")
    moved = sorted(figures.columns, key=lambda c: -max(c.psi, c.anchor_psi or 0))[:12]
    lines = [
        [c.name, f"{c.psi:.3f}", "-" if c.anchor_psi is None else f"{c.anchor_psi:.3f}", f"{c.missing:.1%}"]
        for c in moved
    ]
    console.table("columns that moved most", ["column", "PSI", "PSI, anchor", "missing"], lines)
    for note in row.notes:
        console.remark(note)
    page = report_folder(registry, row) / PAGE
    console.remark(page.absolute().as_uri() if page.is_file() else "its report is no longer kept (docs/retention.md)")


@drift_app.command()
def review(
    name: Name,
    window: WindowId,
    verdict: Annotated[
        Literal["expected", "incident", "ignore"], typer.Option("--as", help="what it is (docs/monitoring.md)")
    ],
    reason: Annotated[str, typer.Option("--reason", help="kept in the ledger")],
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=["%Y-%m-%d"], help="the last day (UTC) that it silences alarms"),
    ] = None,
    new_anchor: Annotated[
        bool, typer.Option("--new-anchor", help="with expected: the early anchor is this version's from now on")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a window is. `ignore` and `expected` silence alarms; all of it is signed, in the ledger."""
    from robustidps.monitoring.index import write_index
    from robustidps.monitoring.reports import write_page
    from robustidps.monitoring.reviews import review as give
    from robustidps.monitoring.windows import window as one

    registry = open_registry()
    row = one(registry, name, window)
    day = until.date() if until else None
    given = give(registry, row, verdict, reason=reason, until=day, new_anchor=new_anchor)
    write_page(registry, row, given)
    write_index(registry)
    ends = given.until.isoformat() if given.until else None
    if as_json:
        facts = {"model": name, "window": row.id, "as": given.kind, "until": ends, "reason": given.reason}
        console.emit_json(facts | {"by": given.actor, "by_source": given.actor_source})
    else:
        console.line(f"{name} {row.id}", given.kind + (f", until {ends}" if ends else ""), "green")


@reports_app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 lets the system pick one")] = 4300,
    host: Host = "127.0.0.1",
    names: Names = None,
) -> None:
    """Serve the report pages, read-only, on an origin of their own; Ctrl-C ends it."""
    from robustidps.monitoring.serving import serve as run

    run(current_settings().home / "reports", host=host, port=port, names=names or ())


@reports_app.command()
def index() -> None:
    """Draw the page over all models anew."""
    from robustidps.monitoring.index import write_index

    console.line("all models", write_index(open_registry()).absolute().as_uri())
