"""Commands about the system at work: start it, end it, look at it, put its flows on a server elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from robustidps import console
from robustidps.cli._app import app, current_settings, ready_flows
from robustidps.cli._options import Json
from robustidps.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from robustidps.settings import Settings
    from robustidps.system.prefect_api import Scheduled
    from robustidps.system.supervisor import Supervisor

PANEL = "The system"
COLUMNS = ("service", "address", "health", "since (UTC)", "restarts")


@app.command(rich_help_panel=PANEL)
def up(
    ports: Annotated[
        list[str] | None, typer.Option("--port", help="SERVICE=NUMBER, such as mlflow=5000; may be repeated")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="return once all answers; `down` ends it")] = False,
) -> None:
    """Start the whole local system on loopback: MLflow, Prefect, the schedules. Ctrl-C ends everything.

    What ends by itself is started again. The next `up` goes on where this one was. docs/operations.md
    """
    settings = current_settings()
    chosen = _ports(ports or [])
    if detach:
        _detach(settings, ports or [])
        return
    from contextlib import ExitStack

    from robustidps.progress import current
    from robustidps.system.supervisor import running

    with ExitStack() as stack:
        try:
            with console.bars():
                supervisor = stack.enter_context(running(settings, ports=chosen, progress=current(), tell=_tell))
            _show_addresses(supervisor)
            _show_runs(supervisor.url("prefect"))
            console.remark("Ctrl-C ends everything")
            console.watched(COLUMNS, lambda: _health(supervisor), supervisor.look)
        except KeyboardInterrupt:
            console.remark("ending everything; this takes some seconds")


@app.command(rich_help_panel=PANEL)
def down() -> None:
    """End what `robustidps up` started for this home, and whatever a killed one has left."""
    from robustidps.progress import current
    from robustidps.system.supervisor import stop

    with console.bars():
        done = stop(current_settings(), progress=current())
    console.remark(done)


@app.command(rich_help_panel=PANEL)
def status(as_json: Json = False) -> None:
    """What is up for this home, its health, what runs when, and the disk. Exit code 6 if something isn't well."""
    from robustidps.system.report import status as look

    found = look(current_settings())
    console.emit_json(found) if as_json else _show_status(found)
    if found["state"] != "up" or not all(s["healthy"] for s in found["services"]):
        raise typer.Exit(6)


@app.command(rich_help_panel=PANEL)
def deploy(
    pool: Annotated[str, typer.Option(help="work pool, made if it isn't there")] = "robustidps",
    kind: Annotated[
        Literal["process", "docker", "kubernetes"], typer.Option("--type", help="how runs are started")
    ] = "process",
    image: Annotated[str | None, typer.Option(help="what containers and jobs are started from")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="one deployment; may be repeated")] = None,
    as_json: Json = False,
) -> None:
    """Put the flows, their schedules and limits on the Prefect server at PREFECT_API_URL (docs/operations.md)."""
    current_settings()
    ready_flows()
    from robustidps.flows.deployments import deploy as put
    from robustidps.progress import current

    with console.bars(not as_json):
        done = put(pool=pool, kind=kind, image=image, only=only or (), progress=current())
    if as_json:
        console.emit_json([d.model_dump() for d in done])
        return
    rows = ([d.name, "; ".join(d.schedule) or "by hand", "off" if d.off else "", d.outcome] for d in done)
    console.table(f"work pool {pool} ({kind})", ["deployment", "runs", "", "outcome"], rows)
    console.remark(f"runs start once a worker looks: prefect worker start --pool {pool} --type {kind}")


def _ports(given: list[str]) -> dict[str, int]:
    found = {}
    for word in given:
        name, _, number = word.partition("=")
        if not number.isdecimal() or not 1 <= int(number) <= 65535:
            raise ConfigError(f"{word!r} is not of the form SERVICE=NUMBER", where="--port")
        found[name] = int(number)
    return found


def _detach(settings: Settings, ports: list[str]) -> None:
    """Starts `up` in a session of its own and waits until all answers."""
    import os
    import subprocess

    from robustidps.progress import current
    from robustidps.settings import writable
    from robustidps.system import record as records

    log = settings.folder("logs") / "up.log"
    words = [sys.executable, "-m", "robustidps", "--home", str(settings.home), "up"]
    words += [word for port in ports for word in ("--port", port)]
    with writable(log), log.open("wb") as sink:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=os.environ, start_new_session=True
        )
    try:
        with console.bars():
            progress, began = current(), time.monotonic()
            while True:
                code = process.poll()
                if code is not None:
                    said = log.read_text(errors="replace").strip()
                    text = said.rpartition("error ")[2].split("\n", 1)[0] if "error " in said else f"exit code {code}"
                    error = UnavailableError(f"it didn't start: {text}", remedy=f"see {log}")
                    error.exit_code = code or 6  # what `up` itself would have ended with
                    raise error
                record = records.supervisor_of(settings)
                if record and record.pid == process.pid and record.state == "up":
                    break
                progress("starting", time.monotonic() - began, None, unit="s")
                time.sleep(0.2)
    except BaseException:
        process.terminate()  # ends what it has started; this command is interrupted
        raise
    for service in record.services:
        console.line(service.title, service.url)
    _show_runs(next(s.url for s in record.services if s.name == "prefect"))
    console.remark("robustidps status shows it, robustidps down ends it")


def _tell(text: str) -> None:
    console.remark(f"{time.strftime('%H:%M:%S')}  {text}")


def _show_addresses(supervisor: Supervisor) -> None:
    rows = [(service.title, service.url, service.what) for service in supervisor.record.services]
    console.table("", ("service", "address", "what for"), rows)


def _show_runs(url: str) -> None:
    """What runs by itself, and when next. The server plans runs some seconds after it hears of a schedule."""
    from robustidps.system.prefect_api import scheduled

    found: list[Scheduled] = []
    for _ in range(30):
        try:
            found = [s for s in scheduled(url) if s.schedule]
        except UnavailableError as error:  # what is up stays up
            console.remark(str(error))
            return
        if all(s.next_run or s.is_paused for s in found):
            break
        time.sleep(0.5)
    for entry in found:
        following = f"next {entry.next_run:%Y-%m-%d %H:%M} UTC" if entry.next_run else "off"
        console.line(f"  {entry.name}", f"{following}  ({entry.schedule})")


def _health(supervisor: Supervisor) -> list[list[str]]:
    """What there is and how it is; the columns are `COLUMNS`."""
    return [
        [s.title, s.url, s.state, f"{s.since:%H:%M:%S}" if s.since else "", str(s.restarts or "")]
        for s in supervisor.record.services
    ]


def _show_status(found: dict[str, Any]) -> None:
    if found["state"] == "down":
        console.line("system", "down", "yellow")
    else:
        console.line("system", f"{found['state']} since {found['since'][:16]} UTC, process {found['supervisor']}")
        rows = [
            [s["title"], s["url"], "well" if s["healthy"] else s["state"], s["pid"], s["restarts"], s["last_end"] or ""]
            for s in found["services"]
        ]
        console.table("services", ["service", "address", "health", "pid", "restarts", "ended last"], rows)
    if found["runs"]:
        timed = [r for r in found["runs"] if r["schedule"]]
        runs = [
            [
                r["name"],
                r["schedule"],
                (r["next_run"] or "off").replace("T", " ")[:16],
            ]
            for r in timed
        ]
        console.table("runs by itself", ["deployment", "schedule", "next (UTC)"], runs)
    if found["leftovers"]:
        console.line("left by a killed one", f"{found['leftovers']} processes; robustidps down ends them", "yellow")
    gib = {key: value / 2**30 for key, value in found["disk"].items()}
    console.line("disk", f"{gib['used']:.1f} GiB in {found['home']}, {gib['free']:.1f} GiB free")
