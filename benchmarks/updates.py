"""Signed updates: what asking for them costs where 1,000 versions are published.

The versions are published through `Publisher` in one edit and served on loopback. An installation that knows the root
and nothing else asks for all that there is; then once more, when nothing is new; then after one more version. What it
downloads is counted at the server, headers included. No bundle is downloaded for any of it. Its peer is what comes of
asking without TUF: the same server's answer for every version's `metadata.json`, one request each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks._pages import circumstances, table, write_section

MINUTES = 2
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
    with served(folder / "publisher" / "public") as (url, count):
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
        paths = [path.replace("bundle.tar", "metadata.json") for path in found]
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


def offers(url: str, folder: Path, root: Path) -> dict[str, Any]:
    """All versions of the family that verify, by the path of their bundle: what a client does to ask for updates."""
    from tuf.ngclient import Updater

    from robustidps.updates.naming import BUNDLE, Summary, parse_target, target

    metadata = folder / "metadata"
    metadata.mkdir(parents=True, exist_ok=True)
    updater = Updater(str(metadata), f"{url}/metadata/", bootstrap=root.read_bytes())
    updater.refresh()
    updater.get_targetinfo(target(FAMILY, NAME, "0.0.0").path)  # loads the role that may name it
    content = json.loads((metadata / f"{FAMILY}.json").read_bytes())["signed"]["targets"]
    return {p: Summary.read(t["custom"], p) for p, t in content.items() if parse_target(p).file == BUNDLE}


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
def served(folder: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """A folder on loopback: its address, and a count of bytes and requests that were answered."""
    count = {"bytes": 0, "requests": 0}

    class Counting(SimpleHTTPRequestHandler):
        def setup(self) -> None:
            super().setup()
            write = self.wfile.write

            def counted(data: bytes) -> int:
                count["bytes"] += len(data)
                return write(data)

            self.wfile.write = counted  # type: ignore[method-assign]

        def log_request(self, *unused: object) -> None:
            count["requests"] += 1

        def log_message(self, *unused: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Counting, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", count
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    sys.exit(main())
