"""A person before a stage: requests for approval, what was said to them, and what of that counts.

    ask        opens a request where a rule set's `approval` is all that is missing
    answer     a person approves or refuses it         settle   requests that nobody can answer any more lapse
    approvals  what persons said about a version, from the signed ledger, for the rule to judge

The ledger is the authority. A request is opened by the refusal that asks for it, and each answer is a record that
names the request; both are signed, and what exactly was shown (bundle, rules, held-out traffic, the production it was
compared with) is in the first. The table `approval` only says which requests wait, so that they are found; a row that
the ledger doesn't know is nobody's request, and editing one approves nothing.

Who asked and who answers are compared by name, however the names are known. Somebody who can't be told apart from the
one who asked can't approve.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from robustidps.errors import ConflictError, InputError, NotFoundError, RefusedError, printable
from robustidps.registry import state
from robustidps.registry.ledger import Decision, canonical
from robustidps.registry.records import person

if TYPE_CHECKING:
    from robustidps.judging import Case
    from robustidps.promotion import Verdict
    from robustidps.registry.registry import ModelRegistry
    from robustidps.rules import Approved

__all__ = [
    "Request",
    "answer",
    "approvals",
    "ask",
    "attach",
    "find",
    "links",
    "markdown",
    "production_generation",
    "settle",
    "waiting",
]

KEY = "approval"
"""Where a decision's evidence has its part in a request."""
UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Request:
    """A request for approval, as the ledger has it.

    status: `waiting`, `approved`, `refused` or `expired` (lapsed: too late, or production has moved).
    requested_by: everybody who may have asked: the actor on record, and the person at the process.
    evidence: what was on record when it was asked: figures with intervals, what each rule said.
    flow_run_id: the Prefect run that is paused for it, where there is one.
    """

    id: str
    model: str
    version: str
    stage: str
    status: str
    rule_set: str
    bundle_digest: str
    requested_by: tuple[str, ...]
    requested_source: str
    requested_at: datetime
    expires_at: datetime
    people: int
    binding: dict[str, Any] = field(repr=False)
    evidence: dict[str, Any] = field(repr=False)
    approved_by: tuple[tuple[str, ...], ...] = ()
    answers: tuple[Decision, ...] = field(default=(), repr=False)
    flow_run_id: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able content."""
        plain = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in ("binding", "answers")}
        said = [
            {"action": a.action, "actor": a.actor, "source": a.actor_source, "time": a.time.isoformat()}
            | {"reasons": list(a.reasons)}
            for a in self.answers
        ]
        times = {key: plain[key].isoformat() for key in ("requested_at", "expires_at")}
        return plain | times | {"answers": said}


def production_generation(decisions: Iterable[Decision]) -> int:
    """The generation of the move that last changed what is in production; 0 if none has."""
    before, found = None, 0
    for entry in decisions:
        if entry.standing["production"] != before:
            before, found = entry.standing["production"], entry.generation
    return found


def approvals(decisions: list[Decision], version: str) -> list[Approved]:
    """What persons approved about `version`, from checked decisions: requests that were refused or lapsed are left out.
    Whether an approval counts is for the rule to say."""
    from robustidps.rules import Approved

    return [
        Approved(
            request=request.id,
            by=_said_by(entry),
            source=entry.actor_source,
            at=entry.time,
            expires_at=request.expires_at,
            requested_by=request.requested_by,
            stage="Staging" if request.stage == "Staging" else "Production",
            bundle_digest=request.bundle_digest,
            rule_set_digest=request.binding["rule_set_digest"],
            production_generation=request.binding["production_generation"],
            data_digest=request.binding["data_digest"],
        )
        for request in _requests(decisions)
        if request.version == version and request.status in ("waiting", "approved")
        for entry in request.answers
    ]


def ask(
    registry: ModelRegistry,
    case: Case,
    verdict: Verdict,
    *,
    evidence: dict[str, Any],
    rule_set: str,
    reason: str = "",
    actor: str | None = None,
) -> Request:
    """Records that a version is held back for want of approval, and opens a request unless the same one waits already.

    Args:
        case: what was judged. verdict: one that waits for approval, and for nothing else.

    Raises:
        ConflictError: somebody else opened one in this moment.
    """
    name, version, stage = case.candidate.model, case.candidate.version, verdict.stage
    rule = case.rules.approval(stage)
    assert rule is not None and case.candidate.evaluation is not None  # noqa: S101 - the verdict says so
    binding = {
        "rule_set_digest": case.rules.digest,
        "production_generation": case.candidate.production_generation,
        "data_digest": case.candidate.evaluation.data_digest,
    }
    facts: dict[str, Any] = {"actor": actor, "rule_set": rule_set, "reason": reason, "verdict": verdict}
    for request in waiting(registry, name):
        if (request.version, request.stage) != (version, stage):
            continue
        if request.binding == binding and request.bundle_digest == case.candidate.bundle_digest:
            registry.record_refusal(name, version, stage, evidence=evidence | {KEY: {"waits_for": request.id}}, **facts)
            return request
        _close(registry, request, "what it was about has changed: other rules or other held-out traffic")
    stale = _listed(registry, name, version, stage)  # by now none of them waits, whatever the table says
    now = datetime.now(UTC)
    who = printable(actor, 200) if actor is not None else person()[0]
    opened = {
        "opens": secrets.token_hex(4),
        "requested_by": sorted({who, person()[0]}),
        "expires_at": (now + timedelta(hours=rule.within_hours)).isoformat(timespec="seconds"),
        "people": rule.people,
        "binding": binding,
        "figures": _figures(case),
    }

    def enter(connection: Connection, decision: Decision) -> None:
        row = {
            "id": opened["opens"],
            "model": name,
            "version": version,
            "stage": stage,
            "bundle_digest": case.candidate.bundle_digest,
            "rule_set": rule_set,
            "status": "waiting",
            "requested_by": decision.actor,
            "requested_source": decision.actor_source,
            "requested_at": decision.time.isoformat(timespec="seconds"),
            "expires_at": opened["expires_at"],
            "evidence": canonical({"ledger_row": decision.seq}),
        }
        table = state.approval
        connection.execute(sa.update(table).where(table.c.id.in_(stale)).values(status="expired"))
        connection.execute(sa.insert(table).values(**row))

    registry.record_refusal(name, version, stage, evidence=evidence | {KEY: opened}, also=enter, **facts)
    return find(registry, str(opened["opens"]))


def answer(
    registry: ModelRegistry,
    request: Request,
    approve: bool,
    *,
    reason: str,
    actor: str | None = None,
    actor_source: str | None = None,
    one_of: tuple[str, ...] = (),
) -> Request:
    """A person's answer, put on record; gives the request as it stands then.

    Args:
        actor, actor_source: who answers and how that is known; default: the person at this process. Anybody may refuse;
            who isn't known can't approve.
        one_of: where it can't be told who of several people answered: all of them.

    Raises:
        InputError: no reason. ConflictError: it was answered, by this person or for good.
        RefusedError: it has lapsed; or this person can't approve it: asked for it, or isn't known.
    """
    if not reason.strip():
        raise InputError("an answer needs a reason", where=request.id, remedy="--reason '...'")
    if actor is None:
        actor, actor_source = person()
    actor_source = actor_source or UNVERIFIED
    names = one_of or (printable(actor, 200),)
    settle(registry, request.model)
    request = find(registry, request.id)
    where = f"approval {request.id} of {request.model} {request.version}"
    if request.status == "expired":
        raise RefusedError(f"has lapsed: {request.answers[-1].reasons[0]}", where=where, remedy="ask again: promote")
    if request.status != "waiting":
        raise ConflictError(f"was {request.status} already", where=where, remedy="nothing to do")
    if approve:
        if actor_source == UNVERIFIED:
            raise RefusedError(
                f"{names[0]} can't approve it: it is not known who that is",
                where=where,
                remedy="docs/approval.md says who can",
            )
        if set(names) & set(request.requested_by):
            raise RefusedError(
                f"{' or '.join(names)} asked for it and can't approve it", where=where, remedy="somebody else has to"
            )
        if any(set(names) & set(said) for said in request.approved_by):
            raise ConflictError(f"{' or '.join(names)} has approved it already", where=where, remedy="nothing to do")
    enough = len(request.approved_by) + 1 >= request.people
    status = ("approved" if enough else "waiting") if approve else "refused"

    def mark(connection: Connection, decision: Decision) -> None:
        _mark(connection, request, status, decision)

    said = {"answers": request.id, "outcome": "approved" if approve else "refused", "by": list(names)}
    facts: dict[str, Any] = {"evidence": {KEY: said}, "rule_set": request.rule_set, "also": mark}
    facts |= {"actor": actor, "actor_source": actor_source}
    if approve:
        registry.record(request.model, request.version, "approve", reasons=[reason], to_stage=request.stage, **facts)
    else:
        verdict = {"outcome": "reject", "reasons": [f"approval {request.id} was refused: {reason}"]}
        registry.record_refusal(request.model, request.version, request.stage, verdict=verdict, **facts)
    return find(registry, request.id)


def settle(registry: ModelRegistry, name: str | None = None) -> list[Request]:
    """Lapses requests that nobody can answer any more: too late, production has moved, the version was withdrawn. Each
    is recorded as a refusal. Gives those that lapsed."""
    lapsed = []
    for request in waiting(registry, name):
        decisions = registry.checked_history(request.model)
        why = None
        if any(d.action == "withdraw" and d.version == request.version for d in decisions):
            why = "the version was withdrawn"
        elif production_generation(decisions) != request.binding["production_generation"]:
            why = "production has moved since it was asked for"
        elif datetime.now(UTC) > request.expires_at:
            why = f"nobody answered until {request.expires_at:%Y-%m-%d %H:%M} UTC"
        if why:
            lapsed.append(_close(registry, request, why))
    return lapsed


def waiting(registry: ModelRegistry, name: str | None = None) -> list[Request]:
    """The requests that wait, oldest first. Raises LedgerError."""
    column = state.approval.c
    query = sa.select(column.id, column.model).where(column.status == "waiting")
    if name is not None:
        query = query.where(column.model == name)
    with registry.store.read() as connection:
        rows = connection.execute(query).all()
    listed = {str(row.id) for row in rows}
    found = [
        request
        for model in sorted({str(row.model) for row in rows})
        for request in _of_model(registry, model)
        if request.id in listed and request.status == "waiting"
    ]
    return sorted(found, key=lambda request: request.requested_at)


def find(registry: ModelRegistry, named: str) -> Request:
    """The request `named`: by its id, or by the Prefect run that is paused for it.

    Raises:
        NotFoundError: none is known to the ledger. LedgerError: the ledger was edited.
    """
    column = state.approval.c
    query = sa.select(column.id, column.model).where((column.id == named) | (column.flow_run_id == named))
    with registry.store.read() as connection:
        rows = connection.execute(query.order_by(column.requested_at.desc())).all()
    for row in rows:
        for request in _of_model(registry, str(row.model)):
            if request.id == row.id:
                return request
    raise NotFoundError(
        "no such request for approval", where=printable(named, 80), remedy="robustidps approvals lists those that wait"
    )


def attach(registry: ModelRegistry, request: Request, flow_run_id: str) -> None:
    """Notes which Prefect run waits for the answer, so that it can be woken."""
    with registry.store.write() as connection:
        column = state.approval.c
        connection.execute(sa.update(state.approval).where(column.id == request.id).values(flow_run_id=flow_run_id))


def _close(registry: ModelRegistry, request: Request, why: str) -> Request:
    """Lapses a request. The actor is nobody: whoever runs the command that finds it out has not refused anything."""

    def mark(connection: Connection, decision: Decision) -> None:
        _mark(connection, request, "expired", decision)

    registry.record_refusal(
        request.model,
        request.version,
        request.stage,
        verdict={"outcome": "hold", "reasons": [f"approval {request.id} has lapsed: {why}"]},
        evidence={KEY: {"answers": request.id, "outcome": "expired"}},
        rule_set=request.rule_set,
        actor="nobody",
        actor_source="lapsed",
        also=mark,
    )
    return find(registry, request.id)


def _mark(connection: Connection, request: Request, status: str, decision: Decision) -> None:
    column = state.approval.c
    update = sa.update(state.approval).where(column.id == request.id, column.status == "waiting")
    said = {
        "decided_by": decision.actor,
        "decided_source": decision.actor_source,
        "reason": "; ".join(decision.reasons),
    }
    values = {"status": status, "decided_at": decision.time.isoformat(timespec="seconds"), **said}
    if connection.execute(update.values(**values)).rowcount != 1:
        raise ConflictError("somebody else answered in this moment", where=f"approval {request.id}")


def _listed(registry: ModelRegistry, name: str, version: str, stage: str) -> list[str]:
    column = state.approval.c
    query = sa.select(column.id).where(column.model == name, column.version == version, column.stage == stage)
    with registry.store.read() as connection:
        return [str(found) for found in connection.execute(query.where(column.status == "waiting")).scalars()]


def _of_model(registry: ModelRegistry, model: str) -> list[Request]:
    column = state.approval.c
    query = sa.select(column.id, column.flow_run_id).where(column.model == model, column.flow_run_id.is_not(None))
    with registry.store.read() as connection:
        runs = {str(row.id): str(row.flow_run_id) for row in connection.execute(query)}
    return _requests(registry.checked_history(model), runs)


def _requests(decisions: Iterable[Decision], runs: dict[str, str] | None = None) -> list[Request]:
    """All requests of a model, oldest first, from its checked decisions."""
    opened: dict[str, Decision] = {}
    answers: dict[str, list[Decision]] = {}
    for entry in decisions:
        part = entry.evidence.get(KEY)
        if not isinstance(part, dict):
            continue
        if "opens" in part and entry.action == "refuse":
            opened.setdefault(str(part["opens"]), entry)
        elif part.get("answers") in opened and opened[part["answers"]].version == entry.version:
            answers.setdefault(str(part["answers"]), []).append(entry)
    return [_request(entry, answers.get(key, []), (runs or {}).get(key)) for key, entry in opened.items()]


def _request(entry: Decision, answers: list[Decision], flow_run_id: str | None) -> Request:
    part = entry.evidence[KEY]
    closing = next((a.evidence[KEY]["outcome"] for a in answers if a.action == "refuse"), None)
    said = tuple(_said_by(a) for a in answers if a.action == "approve")
    return Request(
        id=part["opens"],
        model=entry.model,
        version=str(entry.version),
        stage=entry.to_stage,
        status=closing or ("approved" if len(said) >= part["people"] else "waiting"),
        rule_set=str(entry.rule_set),
        bundle_digest=str(entry.bundle_digest),
        requested_by=tuple(part["requested_by"]),
        requested_source=entry.actor_source,
        requested_at=entry.time,
        expires_at=datetime.fromisoformat(part["expires_at"]),
        people=part["people"],
        binding=part["binding"],
        evidence={"figures": part["figures"], "rules": entry.evidence.get("rules", []), "reasons": list(entry.reasons)},
        approved_by=said,
        answers=tuple(answers),
        flow_run_id=flow_run_id,
    )


def _said_by(entry: Decision) -> tuple[str, ...]:
    return tuple(entry.evidence[KEY].get("by") or (entry.actor,))


def _figures(case: Case) -> dict[str, Any]:
    """What a person is shown: figures with intervals, of candidate and champion, and their paired differences."""

    def headline(evaluation: Any) -> dict[str, str]:
        return {name: str(figure) for name, figure in evaluation.headline.items()} if evaluation else {}

    champion = case.champion
    return {
        "candidate": headline(case.candidate.evaluation),
        "champion": headline(champion.evaluation) if champion else {},
        "champion_version": champion.version if champion else None,
        "paired": {p.metric: f"{p.difference:+.4f}" for p in case.paired},
        "dataset": case.candidate.evaluation.dataset if case.candidate.evaluation else None,
        "rows": case.candidate.evaluation.rows if case.candidate.evaluation else 0,
    }


def links(registry: ModelRegistry, request: Request) -> list[tuple[str, str]]:
    """(title, address) of what more there is to look at: the version in MLflow, where that is a server; the pages."""
    record = registry.version(request.model, request.version)
    found = []
    address = registry.settings.tracking_uri
    if address.startswith(("http://", "https://")) and "@" not in address:
        found.append(("the version in MLflow", f"{address}/#/models/{request.model}/versions/{record.mlflow_version}"))
    page = registry.settings.home / "reports" / request.model / request.version / "evaluation.html"
    if page.is_file():
        found.append(("its evaluation, on the machine that made it", page.as_uri()))
    return found


def markdown(request: Request, more: Iterable[tuple[str, str]] = ()) -> str:
    """What a person decides on, as markdown. All texts are ours or cleaned when they were recorded.

    Args:
        more: (title, address) of pages, as `links` gives them.
    """
    figures = request.evidence["figures"]
    against = figures["champion_version"]
    lines = [
        f"# {request.model} {request.version} -> {request.stage}",
        "",
        f"Asked for by {_plain(' / '.join(request.requested_by))} ({_plain(request.requested_source)}), "
        f"{request.requested_at:%Y-%m-%d %H:%M} UTC; lapses {request.expires_at:%Y-%m-%d %H:%M} UTC. "
        f"Request `{request.id}`, rules `{request.rule_set}`, bundle `{request.bundle_digest[:16]}`.",
        "",
        f"Judged on {figures['rows']} held-out rows of {_plain(figures['dataset'])}, "
        + (f"against {against} in production." if against else "with nothing in production yet."),
        "",
        f"| figure | {request.version} | {against or '-'} | difference, paired |",
        "|---|---|---|---|",
    ]
    for name, value in figures["candidate"].items():
        lines.append(
            f"| {name} | {value} | {figures['champion'].get(name, '-')} | {figures['paired'].get(name, '-')} |"
        )
    lines += ["", "## Rules", ""]
    for rule in request.evidence["rules"]:
        lines.append(f"- {'passed' if rule['passed'] else 'waits'}: {_plain(rule['text'])}")
    lines += ["", *(f"- [{title}]({address})" for title, address in more)]
    return "\n".join(lines).strip() + "\n"


def _plain(text: object) -> str:
    """`text` as words in markdown: nothing in it is markup."""
    return "".join(f"\\{c}" if c in r"\`*_{}[]()<>#|!" else c for c in printable(text, 400))
