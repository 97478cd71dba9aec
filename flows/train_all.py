"""Several families side by side on the same traffic: each is trained, judged and registered as `train` does it.

Traffic is prepared once; families read it by file. They run in threads of this process, in processes of this machine or
on a Dask cluster (`runners.py`); what fails in one of them is that one's outcome, and stops no other. Version numbers
are taken before, and given back by this process for what came to nothing, also where a worker was killed. Rules are
asked at the end, one family after the other, on a machine that is quiet again: latency is among what they judge.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, task
from prefect.states import Failed
from pydantic import Field

from robustidps.errors import RobustIDPSError, printable
from robustidps.families import choose, family_settings, get_family
from robustidps.flows import embedded
from robustidps.flows.forms import DatasetName, FamilyName, RuleSetName
from robustidps.flows.runners import Stopped, runner, telling
from robustidps.flows.steps import judged, traffic_parts, trainings
from robustidps.flows.train import command_line
from robustidps.judging import rule_set
from robustidps.progress import shown
from robustidps.retention import working
from robustidps.settings import DASK, get_settings, writable
from robustidps.tasks.evaluation import show_families
from robustidps.tasks.options import PLAIN
from robustidps.tasks.registry import promote_version, release_version, reserve_version
from robustidps.tasks.training import discard_bundles
from robustidps.traffic.holdout import HoldOut
from robustidps.traffic.prepare import dataset_config
from robustidps.workers import LOCAL, OFF, carried, received

__all__ = ["train_all", "train_family"]

_STOPPING_S = 120
"""How long workers of a cluster elsewhere are waited for after an interruption; they stop between two epochs."""


@flow(name="train_all", persist_result=True, result_serializer="json", validate_parameters=True)
def train_all(
    families: list[FamilyName] | None = None,
    dataset: DatasetName = "simulated",
    data_dir: str | None = None,
    schema_file: str | None = None,
    overrides: dict[str, dict[str, Any]] | None = None,
    seeds: Annotated[int, Field(ge=1, le=20)] = 1,
    split: Literal["temporal", "official", "captures", "shuffled"] | None = None,
    limit_rows: Annotated[int, Field(ge=1)] | None = None,
    hold_out: list[Annotated[str, Field(pattern=r"^(tool|service|day)=.+$", max_length=220)]] | None = None,
    promote_to: Literal["Staging", "Production"] | None = None,
    rules: RuleSetName | None = None,
    description: str = "",
    dask: Annotated[str, Field(pattern=DASK)] | None = None,
    workers: Annotated[int, Field(ge=1, le=1024)] | None = None,
) -> Any:
    """Traffic -> split, evade -> side by side: train, evaluate, register each family -> promote in turn -> compare.

    Args:
        families: Which; default is all that can be trained here.
        dataset: A data set known here (configs/training), or the whole path of a Parquet or CSV file of yours.
        data_dir: Folder of a public data set's files.
        schema_file: Schema of a table of yours (docs/data.md).
        overrides: Settings by family, for example {"quantum": {"epochs": 3}}.
        seeds: Train this many of each family; the best on validation is registered.
        split: How held-out traffic is set apart; default is the data set's own way.
        limit_rows: Train on a random sample of this many rows.
        hold_out: Keep out of training, besides what the data set does: tool=NAME, service=NAME or day=YYYY-MM-DD.
        promote_to: Ask the rules for this stage afterwards.
        rules: Rule set in configs/promotion; default is the data set's.
        description: A sentence that is kept with the versions.
        dask: off (threads), local (processes of this machine) or a scheduler's address; default is the setting `dask`.
        workers: How many at once; default is as many as the machine has room for.

    Returns:
        `families`: the outcome of each, `registered` with what `train` gives or `failed` with the error; `skipped`: the
        families that can't be trained here, and what to do about it. The run fails where a family failed, with the
        same content.

    Raises:
        RobustIDPSError: input that is bad for all of them, or something that isn't there; nothing is registered then.
    """
    settings = get_settings()
    config = dataset_config(dataset)
    given = {key: value for key, value in locals().items() if key not in ("settings", "config")}
    HoldOut.parse(hold_out or [])
    rule_set(rules or config.rules)  # what can't be judged had better not be trained
    chosen, skipped = choose(families, overrides or {})
    where = dask or settings.dask
    outcomes: dict[str, dict[str, Any]] = {}
    jobs: dict[str, dict[str, Any]] = {}
    for family in chosen:
        told = (overrides or {}).get(family, {})
        try:
            family_settings(get_family(family), told)
        except RobustIDPSError as error:
            outcomes[family] = _failed(error)
            continue
        jobs[family] = {
            "overrides": told,
            "name": config.model_name(family),
            "command": command_line(given | {"family": family, "overrides": told}),
        }
    if jobs:
        cut = traffic_parts(dataset, data_dir, schema_file, split, limit_rows, hold_out)
        same = {"cut": cut, "seeds": seeds, "dataset": dataset, "kept_rules": rules or config.rules}
        outcomes |= _side_by_side(jobs, same | {"description": description}, where, workers)
    for outcome in outcomes.values():
        if promote_to and outcome["outcome"] == "registered":
            try:
                outcome["promotion"] = promote_version(outcome["name"], outcome["version"], promote_to, rules)
            except RobustIDPSError as error:
                outcome["error"] = _told(error)
    outcomes = {family: outcomes[family] for family in chosen}
    show_families(outcomes, skipped, dataset)
    summary = {"dataset": dataset, "side_by_side": where, "families": outcomes, "skipped": skipped}
    failed = [family for family in chosen if outcomes[family]["error"]]
    if not failed:
        return summary
    return Failed(message=f"{len(failed)} of {len(chosen)} families failed: {', '.join(failed)}", data=summary)


def _side_by_side(
    jobs: dict[str, dict[str, Any]], same: dict[str, Any], where: str, workers: int | None
) -> dict[str, dict[str, Any]]:
    """Runs `train_family` for all jobs at once; gives the outcome of each."""
    settings = get_settings()
    run = uuid.uuid4().hex[:12]
    topic, stop = f"robustidps-{run}", settings.folder("locks") / f"train-all-{run}.stop"
    common = same | {"topic": topic, "stop": str(stop), "sent": None if where == OFF else carried(settings, where)}
    outcomes: dict[str, dict[str, Any]] = {}
    at_work = False
    with _numbers(jobs, outcomes):
        try:
            with runner(where, settings, topic=topic, workers=workers, most=len(jobs)) as runs:
                futures = {f: runs.submit(train_family, {"family": f, **job, **common}) for f, job in jobs.items()}
                try:
                    for family, future in futures.items():
                        outcomes[family] = _outcome(family, future)
                except BaseException:
                    with writable(stop):
                        stop.touch()
                    at_work = where not in (OFF, LOCAL) and not _stopped(list(futures.values()))
                    raise
        finally:
            if not at_work:
                stop.unlink(missing_ok=True)
    return outcomes


@contextmanager
def _numbers(jobs: dict[str, dict[str, Any]], outcomes: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Takes a version number for each job, and gives back those of which nothing came."""
    try:
        for job in jobs.values():
            job["version"] = reserve_version(job["name"], None, False)
        with ExitStack() as stack:
            for name in sorted({job["name"] for job in jobs.values()}):
                stack.enter_context(working(get_settings(), name))
            yield
    finally:
        for family, job in jobs.items():
            if "version" in job and outcomes.get(family, {}).get("outcome") != "registered":
                release_version(job["name"], job["version"])
                discard_bundles(job["name"], job["version"])


def _stopped(elsewhere: list[Any]) -> bool:
    """Waits for what runs on a cluster elsewhere, which ends between two epochs and not with us; whether it has."""
    until = time.monotonic() + _STOPPING_S
    for future in elsewhere:
        future.wait(timeout=max(0.0, until - time.monotonic()))
    return all(future.wrapped_future.done() for future in elsewhere)


def _outcome(family: str, future: Any) -> dict[str, Any]:
    try:
        result: dict[str, Any] = future.result()
    except RobustIDPSError as error:
        return _failed(error)
    except Exception as error:  # noqa: BLE001 - Dask's own: the process that was at it is gone
        where = f"family {family}"
        problem = f"its worker process ended: {type(error).__name__}: {printable(error, 300)}"
        return _failed(RobustIDPSError(problem, where=where, remedy="give it more memory, or fewer --workers"))
    return {"outcome": "registered", "error": None} | result


def _failed(error: RobustIDPSError) -> dict[str, Any]:
    return {"outcome": "failed", "error": _told(error), "promotion": []}


def _told(error: RobustIDPSError) -> dict[str, Any]:
    return {
        "kind": type(error).__name__,
        "problem": error.problem,
        "where": error.where,
        "remedy": error.remedy,
        "exit_code": error.exit_code,
    }


@task(name="train family", task_run_name="train {family}", **PLAIN)
def train_family(
    family: str,
    overrides: dict[str, Any],
    cut: dict[str, Any],
    *,
    name: str,
    version: str,
    seeds: int,
    dataset: str,
    kept_rules: str,
    command: str,
    description: str,
    sent: dict[str, Any] | None,
    topic: str,
    stop: str,
) -> dict[str, Any]:
    """One family of `train_all`, under a number that was reserved: train -> evaluate -> drift -> page -> register.

    Args:
        cut: as `traffic_parts` gives it; files, wherever this runs.
        sent: settings, where this runs in another process.
        topic, stop: see `telling`.

    Raises:
        RobustIDPSError: whatever went wrong; errors of frameworks are told in words, since not all can travel.
    """
    try:
        with ExitStack() as stack:
            if sent is not None:
                embedded(stack.enter_context(received(sent)))  # what MLflow reads when it is imported
            stack.enter_context(shown(telling(family, topic, Path(stop))))
            make = trainings(family, overrides, seeds, cut, name=name, dataset=dataset, description=description)
            result = judged(
                make, cut, name=name, version=version, dataset=dataset, kept_rules=kept_rules, command=command
            )
            return result | {"process": os.getpid()}
    except (RobustIDPSError, Stopped):
        raise
    except Exception as error:
        get_run_logger().exception("family %s", family)
        problem = f"{type(error).__name__}: {printable(error, 300)}"
        raise RobustIDPSError(problem, where=f"family {family}", remedy="the run's log has the traceback") from error
