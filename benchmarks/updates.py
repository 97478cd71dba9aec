"""Signed updates: what asking for them costs where 1,000 versions are published, and what taking one of 10 MB costs.

The versions are published through `Publisher` in one edit and served on loopback. An installation that knows the root
and nothing else asks for all that there is; then once more, when nothing is new; then after one more version. What it
downloads is counted at the server, headers included. No bundle is downloaded for any of it. Its peer is what comes of
asking without TUF: the same server's answer for every version's `metadata.json`, one request each.

Then one version of 10 MB is taken: found, downloaded, verified, tried in a process of its own, registered in MLflow,
put into Staging and Production. What is left out is measuring it on traffic, which takes as long as there is traffic.
The peer is downloading the same file and hashing it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._pages import circumstances, table, write_section
from robustidps.testing.registry import APPROVE
from robustidps.testing.web import Files, served

MINUTES = 3
VERSIONS = 1000
ROUNDS = 5
FAMILY, NAME = "linear", "toy"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks updates", description=__doc__)
    parser.add_argument("--versions", type=int, default=VERSIONS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/results.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="robustidps-updates-") as folder:
        text = measured(Path(folder), arguments.versions, arguments.rounds)
        text += "\n\n" + taken(Path(folder) / "taken", arguments.rounds)
    print(text)
    if arguments.write:
        print(f"wrote {write_section('results.md', 'updates', text)}")
    return 0


def measured(folder: Path, versions: int, rounds: int) -> str:
    from robustidps.updates.publishing import Publisher

    publisher = Publisher(folder / "publisher", passphrase=lambda name, new: b"of a benchmark alone")
    publisher.init()
    made = list(bundles(folder / "bundles", versions + rounds))
    began = time.perf_counter()
    publisher.add_many(made[:versions], with_real_rows=True)
    published_in = time.perf_counter() - began
    root = publisher.status().root
    assert root is not None
    rows: dict[str, list[tuple[float, int, int]]] = {}
    with counting(folder / "publisher" / "public") as (url, count):
        known = folder / "known"
        offers(url, known, root)
        for turn in range(rounds):
            new = folder / f"new{turn}"
            found = timed(rows, "first check", count, lambda new=new: offers(url, new, root))
            assert len(found) == versions + turn, (len(found), versions + turn)
            timed(rows, "check, nothing new", count, lambda: offers(url, known, root))
            publisher.add_many([made[versions + turn]], with_real_rows=True)
            found = timed(rows, "check, one new version", count, lambda: offers(url, known, root))
            assert len(found) == versions + turn + 1
        paths = [f"{FAMILY}/{offer.name}/{offer.version}/metadata.json" for offer in found]
        timed(rows, "peer: every metadata.json", count, lambda: [described(publisher, url, path) for path in paths])
    lines = [
        [
            what,
            f"{statistics.median(t for t, _, _ in each):.3f}",
            f"{min(t for t, _, _ in each):.3f} to {max(t for t, _, _ in each):.3f}",
            f"{statistics.median(b for _, b, _ in each) / 1e6:.3f}",
            f"{statistics.median(n for _, _, n in each):.0f}",
        ]
        for what, each in rows.items()
    ]
    return "\n\n".join(
        [
            table([f"{versions:,} versions published", "median s", "range s", "MB downloaded", "requests"], lines),
            f"Publishing them took {published_in:.0f} s, in one edit: each bundle opened, run on its golden rows,"
            f" packed and hashed. {circumstances('python -m benchmarks updates')} Median and range of {rounds} rounds"
            " (the peer once); loopback, Python's web server. Absolute times are of that machine, which others used"
            " too.",
        ]
    )


def taken(folder: Path, rounds: int) -> str:
    """A whole cycle without validation, step by step."""
    from robustidps.bundle import open_bundle
    from robustidps.registry.registry import ModelRegistry
    from robustidps.settings import Settings, use_settings
    from robustidps.updates import installing
    from robustidps.updates.offers import check
    from robustidps.updates.publishing import Publisher

    folder.mkdir()
    publisher = Publisher(folder / "publisher", passphrase=lambda name, new: b"of a benchmark alone")
    publisher.init()
    made = [large_bundle(folder / f"1.{i}.0", f"1.{i}.0") for i in range(rounds + 1)]
    settings = Settings(home=folder / "home")
    registry = ModelRegistry(settings=settings)
    registry.register_model(NAME, "1.0.0", made[0])  # MLflow's tables are made, and it is imported
    registry.transition(NAME, "1.0.0", "Production", verdict=APPROVE)
    steps: dict[str, list[float]] = {}

    def clocked(what: str, act: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = act()
        steps.setdefault(what, []).append(time.perf_counter() - began)
        return result

    with served(folder / "publisher" / "public") as url, use_settings(settings):
        for number in range(1, rounds + 1):
            publisher.add_many([made[number]], with_real_rows=True)
            root = publisher.status().root
            assert root is not None
            seen = remote(url, settings.home, root)
            began = time.perf_counter()
            [update] = clocked("check", lambda seen=seen: check(registry, seen))
            with installing.working_on(registry, NAME) as work:
                archive = clocked(
                    "download",
                    lambda u=update, seen=seen, work=work: installing.download(registry, seen, u, work),
                )
                admitted = clocked(
                    "verify, try", lambda u=update, a=archive, work=work: installing.verify(registry, u, a, work)
                )
                judged = judgement(installing.generation_of(registry, NAME))
                decision = clocked(
                    "register, stage", lambda u=update, a=admitted, j=judged: installing.stage(registry, u, a, j)
                )
                judged |= {"generation": decision.generation}
                clocked("activate", lambda u=update, j=judged: installing.activate(registry, u, j))
            steps.setdefault("all of it", []).append(time.perf_counter() - began)
            target = next((publisher.folder / "public" / "targets").rglob(f"{update.new_version}/*bundle.tar"))
            path = target.relative_to(publisher.folder / "public")
            clocked("peer: download, hash", lambda path=path: fetched(f"{url}/{path}"))
        with open_bundle(made[-1]) as bundle:
            size = sum(f.stat().st_size for f in bundle.path.rglob("*") if f.is_file())
    registry.store.close()
    lines = [
        [what, f"{statistics.median(each):.2f}", f"{min(each):.2f} to {max(each):.2f}"] for what, each in steps.items()
    ]
    return "\n\n".join(
        [
            table([f"a version of {size / 1e6:.1f} MB taken", "median s", "range s"], lines),
            f"Without measuring it on traffic. {circumstances('python -m benchmarks updates')} {rounds} rounds;"
            " MLflow on SQLite, in the same process.",
        ]
    )


def judgement(generation: int) -> dict[str, Any]:
    """What `validate` would give of an update that everything speaks for."""
    verdicts = {
        s.lower(): APPROVE | {"stage": s, "rule_set": "benchmark", "results": []} for s in ("Staging", "Production")
    }
    nothing = {"tier": "none", "measured": None, "evidence": {}, "approval": False, "held_out": None}
    return verdicts | nothing | {"generation": generation}


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
        return hashlib.sha256(answer.read()).hexdigest()


def large_bundle(folder: Path, version: str) -> Path:
    """A network of 2.6 million weights, which nobody trained."""
    from robustidps.bundle import write_bundle
    from robustidps.evaluation.reference import profile
    from robustidps.preprocessing import Preprocessing
    from robustidps.registry.metadata import ModelMetadata
    from robustidps.testing.traffic import TOY, toy_traffic

    rows = toy_traffic(300, seed=1)
    preprocessing = Preprocessing.fit(TOY, rows.features)
    trained = Wide(np.random.default_rng(int(version.split(".")[1])), TOY.standardised_dim, TOY.output_dim)
    metadata = ModelMetadata(
        name=NAME,
        version=version,
        family=FAMILY,
        model_type="network",
        framework="numpy",
        input_dim=TOY.input_dim,
        output_dim=TOY.output_dim,
        performance_metrics={"accuracy": 0.9},
    )
    write_bundle(
        folder,
        metadata=metadata,
        schema=TOY,
        trained=trained,
        preprocessing=preprocessing,
        temperature=1.0,
        rows=rows,
        reference=profile(rows),
    ).close()
    return folder


class Wide:
    """Two hidden layers of 1,600, with ReLU: 10 MB of weights."""

    WIDTH = 1600

    def __init__(self, rng: np.random.Generator, width: int, classes: int) -> None:
        sizes = (width, self.WIDTH, self.WIDTH, classes)
        self.weights = [(rng.normal(size=pair) / pair[0]).astype(np.float32) for pair in itertools.pairwise(sizes)]

    def logits(self, x: Any) -> Any:
        for weight in self.weights[:-1]:
            x = np.maximum(x @ weight, 0)
        return x @ self.weights[-1]

    def export_onnx(self, path: Path) -> None:
        from robustidps.emitting import Graph

        emit = Graph("wide")
        x = "x"
        for number, weight in enumerate(self.weights):
            last = number + 1 == len(self.weights)
            given = {"outputs": ["logits"]} if last else {}
            x = emit.node("MatMul", x, emit.constant(weight, name=f"w{number}"), **given)
            x = x if last else emit.node("Relu", x)
        import onnx

        float32 = onnx.TensorProto.FLOAT
        ends = [
            [onnx.helper.make_tensor_value_info(name, float32, ["batch", size])]
            for name, size in (("x", len(self.weights[0])), ("logits", self.weights[-1].shape[1]))
        ]
        graph = onnx.helper.make_graph(emit.nodes, emit.name, *ends, emit.constants)
        opset = onnx.helper.make_opsetid("", 17)
        path.write_bytes(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString())

    def save_native(self, folder: Path) -> None:
        (folder / "about.json").write_text('{"weights": "in model.onnx"}')


def bundles(folder: Path, count: int) -> Iterator[Path]:
    """One small bundle under many numbers."""
    from robustidps.testing.forge import reseal
    from robustidps.testing.linear import toy_bundle

    folder.mkdir()
    first = toy_bundle(folder / "first", name=NAME, rows=100).path
    metrics = {"accuracy": 0.9871, "macro_f1": 0.8642, "false_positive_rate": 0.0012}
    for number in range(count):
        copy = Path(shutil.copytree(first, folder / str(number)))
        reseal(copy, version=f"1.{number}.0", performance_metrics=metrics)
        yield copy


def remote(url: str, home: Path, root: Path) -> Any:
    """An installation's view of the repository, with its root pinned."""
    from robustidps.updates.client import RemoteRegistry

    found = RemoteRegistry(home, [url])
    found.trust(root.read_bytes())
    return found


def offers(url: str, home: Path, root: Path) -> list[Any]:
    """All versions of the family that verify: what `robustidps updates check` asks for."""
    return list(remote(url, home, root).offers({NAME: FAMILY}))


def described(publisher: Any, url: str, path: str) -> bytes:
    folder = publisher.folder / "public" / "targets" / Path(path).parent
    name = next(f.name for f in folder.iterdir() if f.name.endswith("metadata.json"))
    with urllib.request.urlopen(f"{url}/targets/{Path(path).parent}/{name}", timeout=10) as answer:  # noqa: S310
        return bytes(answer.read())


def timed(
    rows: dict[str, list[tuple[float, int, int]]], what: str, count: dict[str, int], call: Callable[[], Any]
) -> Any:
    count.update(bytes=0, requests=0)
    began = time.perf_counter()
    result = call()
    rows.setdefault(what, []).append((time.perf_counter() - began, count["bytes"], count["requests"]))
    return result


@contextmanager
def counting(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """A folder on loopback: its address, and a count of bytes and requests that were answered."""
    count = {"bytes": 0, "requests": 0}

    class Counted(Files):
        def setup(self) -> None:
            super().setup()
            write = self.wfile.write

            def counted(data: bytes) -> int:
                count["bytes"] += len(data)
                return write(data)

            self.wfile.write = counted  # type: ignore[method-assign]

        def log_request(self, *unused: object) -> None:
            count["requests"] += 1

    with served(folder, Counted) as url:
        yield url, count


if __name__ == "__main__":
    sys.exit(main())
