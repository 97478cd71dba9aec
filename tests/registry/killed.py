"""Does one thing to copies of a home, killed (SIGKILL) at a different step each time. Run by `test_killed.py`.

    python killed.py HOME OUT ACTION...

A run that isn't killed first says which steps there are. Then OUT/ACTION/N is a copy of HOME in which ACTION was killed
right after step N. Each run is a forked child of one process that has MLflow imported but no connection open, which
saves seconds a step. Prints the steps of each action as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import mlflow.store.db.utils
import mlflow.store.tracking.sqlalchemy_store  # imported before forking; it takes seconds

from robustidps.registry import steps
from robustidps.registry.registry import ModelRegistry
from robustidps.settings import Settings

APPROVE = {"outcome": "promote", "reasons": ["9 of 9 rules"]}


def act(action: str, home: Path) -> None:
    registry = ModelRegistry(settings=Settings(home=home))
    if action == "register":
        registry.register_model("toy", "1.2.0", Path(sys.argv[2]) / "bundle", held_out={"dataset": "toy"})
    elif action == "promote":
        registry.transition("toy", "1.1.0", "Production", verdict=APPROVE)
    else:
        registry.rollback("toy", reason="killed")


def forked(action: str, home: Path, hook) -> int:
    child = os.fork()
    if child == 0:
        steps.hook = hook
        try:
            act(action, home)
        except BaseException:  # noqa: BLE001 - a forked child must not go on in its parent's code
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def run(action: str, source: Path, out: Path) -> list[str]:
    whole = Path(shutil.copytree(source, out / "whole"))
    log = out / "steps"

    def note(name: str) -> None:
        with log.open("a") as file:
            file.write(name + "\n")

    if forked(action, whole, note) != 0:
        sys.exit("the action fails without being killed")
    names = log.read_text().split()
    for number in range(len(names)):
        count = 0

        def kill(name: str, number: int = number) -> None:
            nonlocal count
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

        status = forked(action, Path(shutil.copytree(source, out / str(number))), kill)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"not killed at {names[number]}: {status}")
    return names


if __name__ == "__main__":
    head = mlflow.store.db.utils._get_latest_schema_revision()  # 67 files, read again for every database otherwise
    mlflow.store.db.utils._get_latest_schema_revision = lambda: head
    home, out, *actions = sys.argv[1:]
    # Once without a fork: what is imported and set up lazily is then there for all children.
    scratch = Path(shutil.copytree(home, Path(out) / "scratch" / "home"))
    act("promote", scratch)
    act("register", scratch)
    print(json.dumps({action: run(action, Path(home), Path(out) / action) for action in actions}))
