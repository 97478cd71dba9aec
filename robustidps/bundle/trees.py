"""Whether decision trees in a graph may be handed to ONNX Runtime: every reference leads somewhere, none leads back.

ONNX Runtime builds trees by recursion (its stack ends some ten thousand nodes down, with signal 11) and walks them
until it meets a leaf, which in a circle it never does. So both are looked at before, wave by wave from the roots down,
without recursion. A node may be reached in more than one way: that is how converters write membership in a set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from robustidps.errors import BundleError

if TYPE_CHECKING:
    import onnx

__all__ = ["MAX_DEPTH", "check_trees"]

MAX_DEPTH = 4096
"""Nodes between root and leaf. LightGBM's trees aren't deeper than they have leaves: here at most 4096."""
MAX_TREE_NODES = 5_000_000
_BRANCHES = (b"BRANCH_LEQ", b"BRANCH_LT", b"BRANCH_GTE", b"BRANCH_GT", b"BRANCH_EQ", b"BRANCH_NEQ")
_SHIFT = 32

Ints = npt.NDArray[np.int64]


def check_trees(node: onnx.NodeProto, label: str, where: object) -> None:
    """Refuses a TreeEnsemble, TreeEnsembleClassifier or TreeEnsembleRegressor that is malformed, circular or too deep.

    Raises:
        BundleError.
    """
    given = {a.name: a for a in node.attribute}
    try:
        if node.op_type == "TreeEnsemble":
            edges, count = _by_index(given)
        else:
            edges, count = _by_id(given)
            _check_results(node.op_type, given)
        _check_depth(edges, count)
    except _Malformed as error:
        raise BundleError(f"{label}, {node.op_type}, {error}", where=where) from None


class _Malformed(Exception):
    pass


def _ints(given: dict[str, Any], name: str, *, least: int = 0) -> Ints:
    attribute = given.get(name)
    if attribute is None or not attribute.ints:
        raise _Malformed(f"has no {name}")
    if len(attribute.ints) > MAX_TREE_NODES:
        raise _Malformed(f"has {len(attribute.ints)} {name}, more than {MAX_TREE_NODES}")
    found = np.fromiter(attribute.ints, np.int64, len(attribute.ints))
    if found.min() < least or found.max() >= 1 << _SHIFT - 1:
        raise _Malformed(f"has {name} that can't be")
    return found


def _same_length(columns: dict[str, Any]) -> int:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise _Malformed(f"has lists of different lengths: {', '.join(sorted(columns))}")
    return lengths.pop()


def _by_id(given: dict[str, Any]) -> tuple[Ints, int]:
    """Edges [E, 2] from node to node, and how many nodes there are: of the operators that number nodes in each tree."""
    names = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids")
    columns: dict[str, Any] = {
        name: _ints(given, f"nodes_{name}", least=-1 if "enode" in name else 0) for name in names
    }
    modes = given["nodes_modes"].strings if "nodes_modes" in given else []
    count = _same_length({**columns, "modes": modes})
    leaf = np.fromiter((mode == b"LEAF" for mode in modes), bool, count)
    if not all(mode in _BRANCHES for mode, is_leaf in zip(modes, leaf, strict=True) if not is_leaf):
        raise _Malformed("has nodes_modes that can't be")
    tree = np.unique(columns["treeids"], return_inverse=True)[1].astype(np.int64).reshape(-1) << _SHIFT
    keys = tree + columns["nodeids"]
    order = np.argsort(keys)
    if (np.diff(keys[order]) == 0).any():
        raise _Malformed("has a node twice")
    edges = []
    inner = np.flatnonzero(~leaf)
    for side in ("truenodeids", "falsenodeids"):
        wanted = tree[inner] + columns[side][inner]
        at = np.searchsorted(keys[order], wanted).clip(max=count - 1)
        if (keys[order][at] != wanted).any():
            raise _Malformed("has a branch that leads nowhere")
        edges.append(np.stack([inner, order[at]], axis=1))
    return np.concatenate(edges), count


def _by_index(given: dict[str, Any]) -> tuple[Ints, int]:
    """The same of `TreeEnsemble`, whose nodes and leaves are numbered in lists of their own."""
    columns = {name: _ints(given, f"nodes_{name}") for name in ("featureids", "truenodeids", "falsenodeids")}
    flags = {name: _ints(given, f"nodes_{name}") for name in ("trueleafs", "falseleafs")}
    count = _same_length({**columns, **flags})
    targets = _ints(given, "leaf_targetids")
    if _ints(given, "tree_roots").max() >= count:
        raise _Malformed("has a root that isn't there")
    edges = []
    for side, flag in (("truenodeids", "trueleafs"), ("falsenodeids", "falseleafs")):
        leaf = flags[flag] != 0
        if (columns[side] >= np.where(leaf, len(targets), count)).any():
            raise _Malformed("has a branch that leads nowhere")
        edges.append(np.stack([np.flatnonzero(~leaf), columns[side][~leaf]], axis=1))
    _check_range(given, "leaf_targetids", given["n_targets"].i if "n_targets" in given else 0)
    return np.concatenate(edges), count


def _check_results(operator: str, given: dict[str, Any]) -> None:
    """That what a leaf gives is of a class or target that there is."""
    if operator == "TreeEnsembleRegressor":
        _check_range(given, "target_ids", given["n_targets"].i if "n_targets" in given else 0)
    else:
        labels = (given[name] for name in ("classlabels_int64s", "classlabels_strings") if name in given)
        _check_range(given, "class_ids", max((len(a.ints) + len(a.strings) for a in labels), default=0))


def _check_range(given: dict[str, Any], name: str, end: int) -> None:
    if _ints(given, name).max() >= end:
        raise _Malformed(f"has {name} beyond the {end} that there are")


def _check_depth(edges: Ints, count: int) -> None:
    """Takes nodes away that nothing left leads to, wave by wave: as many waves as the longest way has nodes."""
    order = np.argsort(edges[:, 0], kind="stable")
    children = edges[order, 1]
    begins = np.searchsorted(edges[order, 0], np.arange(count + 1))
    parents = np.bincount(edges[:, 1], minlength=count)
    wave = np.flatnonzero(parents == 0)
    gone = depth = 0
    while len(wave):
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise _Malformed(f"has a tree of more than {MAX_DEPTH} nodes one below another")
        gone += len(wave)
        sizes = begins[wave + 1] - begins[wave]
        offsets = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        below, times = np.unique(children[np.repeat(begins[wave], sizes) + offsets], return_counts=True)
        parents[below] -= times
        wave = below[parents[below] == 0]
    if gone < count:
        raise _Malformed("has a tree whose branches lead back: it would never end")
