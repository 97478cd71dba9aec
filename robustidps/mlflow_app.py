"""MLflow's own app with accounts (basic-auth), and a record of who asked for what.

    mlflow server --app-name robustidps-auth ...

MLflow's webhooks and tables don't say who moved an alias. This app lets MLflow check who somebody is and what they may
do, and then, before the change is made, writes model, version, kind and account into `mlflow_request` of the state
store, where the reconciler finds it. The server needs RobustIDPS's settings (ROBUSTIDPS_HOME, ROBUSTIDPS_DATABASE_URL)
and the right to write there. A change that can't be written down is made all the same, by an *unverified* actor.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from robustidps.errors import NameInvalidError, RobustIDPSError, printable
from robustidps.registry import state
from robustidps.registry.tracking import TAG
from robustidps.settings import check_name, make_settings

__all__ = ["asked", "create_app"]

log = logging.getLogger(__name__)

BASIC = "mlflow.server.auth:authenticate_request_basic_auth"


def create_app() -> Any:
    """The factory that `mlflow server --app-name robustidps-auth` calls; takes mlflow[auth]."""
    from mlflow.server import app as flask_app
    from mlflow.server.auth import auth_config, authenticate_request
    from mlflow.server.auth import create_app as with_accounts

    settings = make_settings()
    store = state.StateStore(settings.state_url, settings.home / "locks")
    served = with_accounts(flask_app)  # its checks come first: what it refuses is never seen here

    @flask_app.before_request
    def _record() -> None:
        from flask import request

        body = request.get_json(silent=True)
        facts = {**request.args.to_dict(), **(body if isinstance(body, dict) else {})}
        found = asked(request.method, request.path, facts)
        if found is None:
            return
        # MLflow has just checked it; another way to prove who one is has to be asked again.
        proof = request.authorization if auth_config.authorization_function == BASIC else authenticate_request()
        actor = getattr(proof, "username", None)
        if not actor:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            with store.write() as connection:
                row = {**found, "time": now, "actor": printable(actor, 200)}
                connection.execute(sa.insert(state.mlflow_request).values(**row))
        except RobustIDPSError as error:
            log.warning("who asked for %s of %s is not recorded: %s", found["kind"], found["model"], error)

    return served


def asked(method: str, path: str, facts: Mapping[str, Any]) -> dict[str, str | None] | None:
    """The row of `mlflow_request` that a REST call makes, without time and actor; None for any other call.

    Args:
        facts: the call's arguments, from its body or its address.
    """
    _, found, call = path.rpartition("/mlflow/")
    kinds = {
        ("POST", "registered-models/alias"): ("alias", "alias"),
        ("DELETE", "registered-models/alias"): ("alias-deleted", "alias"),
        ("POST", "model-versions/transition-stage"): ("stage", "stage"),
        ("DELETE", "model-versions/delete"): ("version-deleted", None),
        ("POST", "registered-models/rename"): ("renamed", None),
        ("DELETE", "registered-models/delete"): ("model-deleted", None),
        ("POST", "model-versions/set-tag"): ("tag", "key"),
        ("DELETE", "model-versions/delete-tag"): ("tag", "key"),
        ("POST", "registered-models/set-tag"): ("model-tag", "key"),
        ("DELETE", "registered-models/delete-tag"): ("model-tag", "key"),
    }
    kind, what = kinds.get((method, call), (None, None))
    if not found or kind is None:
        return None
    try:
        name = check_name(str(facts.get("name")))
    except NameInvalidError:
        return None  # no model of ours
    detail = printable(facts.get(what), 200) if what else None
    if kind in ("tag", "model-tag") and not str(detail).startswith(TAG):
        return None
    if kind == "stage":  # MLflow takes any case
        detail = str(detail).capitalize()
    version = facts.get("version")
    return {
        "model": name,
        "mlflow_version": None if version is None else printable(version, 20),
        "kind": kind,
        "detail": detail,
    }
