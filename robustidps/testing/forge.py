"""What an attacker who can write to a bundle's whole folder does after an edit: make its digest fit again.

Tests use it so that a forged file meets the check that is meant for it, and not only the digest.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustidps.bundle.files import Contents, canonical, digest_of

if TYPE_CHECKING:
    import onnx

__all__ = ["chain_of_a_tree", "files_of", "raw_archive", "reseal"]


def reseal(folder: Path, **metadata: Any) -> str:
    """Puts `metadata` and a digest that fits into metadata.json, without judging anything; gives the digest."""
    path = folder / "metadata.json"
    content = json.loads(path.read_text(encoding="utf-8")) | metadata
    listing = []
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            listing.append((str(file.relative_to(folder)), len(data), hashlib.sha256(data).hexdigest()))
    content["checksum"] = digest_of(Contents(folder, {}, tuple(sorted(listing))), content)
    path.write_bytes(canonical(content))
    return str(content["checksum"])


def raw_archive(files: dict[str, bytes]) -> bytes:
    """Any files as an archive of the form that `updates.archive.pack` writes, in the order given, unjudged."""
    out = b""
    for name, data in files.items():
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.mtime = len(data), 0o644, 0
        out += entry.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    return out + bytes(1024)


def files_of(folder: Path) -> dict[str, bytes]:
    """Relative path to content of every file below `folder`, sorted."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def chain_of_a_tree(depth: int, *, back_to: int | None = None) -> onnx.ModelProto:
    """A decision tree in which each of `depth` nodes hangs below the one before: one allowed operator.

    ONNX Runtime 1.32 builds it by recursion, and from some ten thousand on its stack ends, by signal 11.

    Args:
        back_to: the node that the last one's branch leads to, in place of a leaf.
    """
    from onnx import helper

    count = 2 * depth + 1
    leaves = list(range(depth, count))
    down = list(range(1, depth + 1))
    if back_to is not None:
        down[-1] = back_to
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["probabilities"],
        domain="ai.onnx.ml",
        n_targets=4,
        nodes_treeids=[0] * count,
        nodes_nodeids=list(range(count)),
        nodes_featureids=[0] * count,
        nodes_values=[0.0] * count,
        nodes_modes=["BRANCH_LEQ"] * depth + ["LEAF"] * len(leaves),
        nodes_truenodeids=[*down, *[0] * len(leaves)],
        nodes_falsenodeids=[*range(depth + 1, count), *[0] * len(leaves)],
        target_treeids=[0] * len(leaves),
        target_nodeids=leaves,
        target_ids=[0] * len(leaves),
        target_weights=[1.0] * len(leaves),
    )
    sides = [helper.make_tensor_value_info(n, 1, ["batch", w]) for n, w in (("features", 8), ("probabilities", 4))]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    graph = helper.make_graph([node], "chain", sides[:1], sides[1:])
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
