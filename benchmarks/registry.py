"""The registry with many versions of one model: promote, rollback and history in seconds, on SQLite and PostgreSQL.

The state is filled through `Ledger.append`: each version registered and judged, every second one let into Production,
with evidence of the size that real decisions have; the filled ledger passes `verify`. MLflow's side is filled with rows
of its own tables. Then versions that were registered in earnest are promoted and rolled back, each time by a registry
object made anew, as a command does it: nothing is remembered from the time before. The peer is MLflow's own alias call,
which is all that a promotion is without us; how times grow from the fewest versions to the most is beside it.

The command `robustidps rollback` is timed from the start of its process to the moment in which MLflow is first looked
for: the decision is committed and printed by then.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from benchmarks._pages import circumstances, table, write_section
from robustidps.registry import state
from robustidps.registry.ledger import canonical
from robustidps.registry.reconciler import reconcile
from robustidps.registry.registry import ModelRegistry
from robustidps.registry.stages import Course
from robustidps.registry.tracking import Tracking
from robustidps.settings import Settings
from robustidps.testing.linear import toy_bundle
from robustidps.testing.registry import APPROVE

MINUTES = 6
NAME = "toy"
# What a registration and a judgement record in practice, in bytes of JSON.
REGISTERED, JUDGED = 1500, 4000

COMMAND = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "mlflow":
            os._exit(77)

sys.meta_path.insert(0, Watch())
sys.argv = ["robustidps", "rollback", sys.argv[1]]
from robustidps.cli import main
main()
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks registry", description=__doc__)
    parser.add_argument("--versions", type=int, nargs="+", default=[100, 1000, 10_000], help="of one model")
    parser.add_argument("--rounds", type=int, default=5, help="of each figure, of which the median is printed")
    parser.add_argument("--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    measured: dict[str, dict[int, dict[str, float]]] = {}
    for kind in arguments.databases:
        with database(kind) as address:
            measured[kind] = {n: measure(address, n, arguments.rounds) for n in sorted(arguments.versions)}
    text = page(measured, arguments.rounds)
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'registry', text)}")
    return 0


@contextmanager
def database(kind: str) -> Iterator[Callable[[Path, str], str]]:
    """Gives what makes the address of an empty database, from a folder and a name."""
    if kind == "sqlite":
        yield lambda folder, name: f"sqlite:///{folder / name}.db"
        return
    import pgserver

    folder = Path(tempfile.mkdtemp(prefix="robustidps-postgresql-"))
    server = pgserver.get_server(folder)

    def make(unused: Path, name: str) -> str:
        whole = f"{name}_{secrets.token_hex(4)}"
        server.psql(f"CREATE DATABASE {whole};")
        return str(server.get_uri(database=whole))

    try:
        yield make
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def measure(address: Callable[[Path, str], str], versions: int, rounds: int) -> dict[str, float]:
    """Median seconds of each act on a model with so many versions."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        settings = Settings(home=home, database_url=address(home, "state"), mlflow_tracking_uri=address(home, "mlflow"))
        tracking = Tracking(settings)
        tracking.ping()

        def opened() -> ModelRegistry:
            return ModelRegistry(settings=settings, tracking=tracking)

        registry = opened()
        print(f"filling {versions} versions, {registry.store.dialect} ..", file=sys.stderr, flush=True)
        tracking.ensure_model(NAME)
        fill(registry, versions)
        fill_mlflow(registry)
        pair = [f"2.{i}.0" for i in range(2)]
        for i, version in enumerate(pair):
            bundle = toy_bundle(Path(folder) / version, name=NAME, version=version, seed=i)
            registry.register_model(NAME, version, bundle.path)
        registry.verify(NAME)
        taken: dict[str, list[float]] = {}

        def timed(what: str, act: Callable[[ModelRegistry], Any]) -> None:
            mine = opened()
            began = time.perf_counter()
            act(mine)
            taken.setdefault(what, []).append(time.perf_counter() - began)
            mine.store.close()

        opened().transition(NAME, pair[0], "Production", verdict=APPROVE)
        number = str(registry.version(NAME, pair[0]).mlflow_version)
        watching = opened()
        reconcile(watching, NAME)
        for _ in range(rounds):
            timed("promote", lambda r: r.transition(NAME, pair[1], "Production", verdict=APPROVE, project=False))
            timed("... MLflow's picture", lambda r: r.ensure_projected(NAME))
            timed("rollback", lambda r: r.rollback(NAME))
            opened().ensure_projected(NAME)
            opened().transition(NAME, pair[1], "Production", verdict=APPROVE)
            taken.setdefault("the command `rollback`", []).append(command(settings))
            opened().ensure_projected(NAME)
            timed("history", lambda r: r.history(NAME))
            timed("load production", lambda r: r.resolve(NAME, "production"))
            reconcile(watching, NAME)
            # The watcher's regular look where nothing has happened, by the registry that it keeps.
            began = time.perf_counter()
            assert reconcile(watching, NAME) == []
            taken.setdefault("watcher's look", []).append(time.perf_counter() - began)
            timed("MLflow's alias alone", lambda r: tracking.client.set_registered_model_alias(NAME, "peer", number))
        timed("history --verify", lambda r: r.verify())
        registry.store.close()
    return {what: float(np.median(seconds)) for what, seconds in taken.items()}


def command(settings: Settings) -> float:
    """Seconds from the start of `robustidps rollback` to its committed decision."""
    places = {"HOME": settings.home, "DATABASE_URL": settings.database_url}
    places["MLFLOW_TRACKING_URI"] = settings.mlflow_tracking_uri
    env = os.environ | {f"ROBUSTIDPS_{key}": str(value) for key, value in places.items()}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", COMMAND, NAME], env=env, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode != 77 or "->" not in done.stdout:
        raise RuntimeError(f"the command didn't get there: {done.stdout}{done.stderr}")
    return seconds


def fill(registry: ModelRegistry, versions: int) -> None:
    """Enters `versions` versions of one model, each registered and judged, in one transaction."""
    held_out = {"path": "held_out.parquet", "digest": "ab" * 32, "dataset": "simulated", "rules": "default"}
    course, generation, now = Course(), 0, "2026-01-01T00:00:00.000+00:00"
    with registry.store.write() as connection:
        numbers = [f"1.{i}.0" for i in range(versions)]
        digests = {v: hashlib.sha256(v.encode()).hexdigest() for v in numbers}
        base = {"model": NAME, "status": "registered", "author": "benchmark", "created_at": now}
        rows = [
            base
            | {"version": v, "digest": digests[v], "mlflow_version": i + 1, "run_id": f"run{i}"}
            | {"held_out": canonical(held_out)}
            for i, v in enumerate(numbers)
        ]
        connection.execute(sa.insert(state.version), rows)
        for i, version in enumerate(numbers):
            last = None
            for action in ("register", "promote" if i % 2 else "refuse"):
                stage = "None" if action == "register" else "Production"
                displaced = course.production if action == "promote" else None
                course.take(action, version, stage)
                generation += action == "promote"
                facts: dict[str, Any] = {"held_out": held_out} if action == "register" else {}
                size = REGISTERED if action == "register" else JUDGED
                facts["figures"] = {f"metric {k}": round(0.9 + k / 1e4, 6) for k in range(size // 22)}
                last = registry.ledger.append(
                    connection,
                    {
                        **{"model": NAME, "version": version, "action": action, "to_stage": stage},
                        **{"from_stage": "None", "from_version": displaced, "actor": "benchmark"},
                        **{"actor_source": "os", "rule_set": "default", "reasons": ["9 of 9 rules"]},
                        "verdict": {"register": "recorded", "promote": "promote", "refuse": "hold"}[action],
                        **{"evidence": facts, "bundle_digest": digests[version], "generation": generation},
                        "standing": course.roles(),
                    },
                )
        # MLflow's picture has followed all of it, as it does after each command in earnest.
        place = {"model": NAME, "generation": generation, "applied_generation": generation, "answered": 2 * versions}
        connection.execute(sa.insert(state.assignment).values(**place, **course.roles()))
    if last:
        registry.ledger.remember(last)


def fill_mlflow(registry: ModelRegistry) -> None:
    """The same versions in MLflow's own tables, as a picture that nothing is missing in."""
    wanted = registry.projection.wanted(NAME)
    now = int(time.time() * 1000)
    base = {"name": NAME, "creation_time": now, "last_updated_time": now, "status": "READY"}
    filled: dict[str, list[dict[str, Any]]] = {
        "model_versions": [
            base
            | {"version": n, "current_stage": wanted.stages[v], "source": "runs:/x/bundle", "run_id": wanted.runs[v]}
            for v, n in wanted.numbers.items()
        ],
        "model_version_tags": [
            {"name": NAME, "version": n, "key": key, "value": value}
            for v, n in wanted.numbers.items()
            for key, value in wanted.tags[v].items()
        ],
        "registered_model_aliases": [
            {"name": NAME, "alias": alias, "version": wanted.numbers[v]} for alias, v in wanted.aliases.items() if v
        ],
    }
    engine = sa.create_engine(registry.settings.tracking_uri)
    tables = sa.MetaData()
    tables.reflect(engine, only=list(filled))
    with engine.begin() as connection:
        for name, rows in filled.items():
            connection.execute(sa.insert(tables.tables[name]), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("ANALYZE"))  # as it comes about by itself where rows come one by one
    engine.dispose()


def page(measured: dict[str, dict[int, dict[str, float]]], rounds: int) -> str:
    parts = []
    for kind, by_count in measured.items():
        counts = list(by_count)
        acts = list(by_count[counts[0]])
        header = [kind, *[f"{n:,} versions, ms" for n in counts], f"times {counts[0]:,}"]
        rows = []
        for act in acts:
            figures = [by_count[n][act] for n in counts]
            rows.append([act, *[f"{1000 * s:,.0f}" for s in figures], f"{figures[-1] / figures[0]:.1f}"])
        parts.append(table(header, rows))
        most = by_count[counts[-1]]
        whole, alone = most["promote"] + most["... MLflow's picture"], most["MLflow's alias alone"]
        parts.append(
            f"With {counts[-1]:,} versions, a promotion with its picture takes {whole:.2f} s, "
            f"{whole / alone:.1f} times what moving one alias in MLflow takes by itself."
        )
    parts.append(
        f"Two decisions a version; medians of {rounds}, each by a registry opened anew (`history --verify`, which "
        "checks every signature, once). "
        + circumstances("python -m benchmarks registry --write")
        + f" Load average {os.getloadavg()[1]:.1f}."
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
