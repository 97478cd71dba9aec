"""Which of a schema's classes the words of a label file stand for.

Words are compared by their letters and digits, without regard to case: label files write `PortScan`, `Port Scan` and
`port-scan`, and CIC-IDS2017's dash in `Web Attack - XSS` comes in four encodings. A class's own name always counts;
`configs/labels/flow64.yaml` has the words of published label files, and a mapping file of the same shape adds to it or
says otherwise. A word without a class is not an error: its flows stay unlabelled, and are counted by word.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import RootModel

from robustidps.errors import ConfigError, printable
from robustidps.settings import config_file, load_yaml
from robustidps.traffic.flow64 import FLOW64
from robustidps.traffic.schema import TrafficSchema
from robustidps.traffic.trafficset import UNLABELLED

__all__ = ["LabelWords", "label_words"]


class _WordFile(RootModel[dict[str, tuple[str, ...]]]):
    """A mapping file: class to the words that stand for it."""


@dataclass(frozen=True)
class LabelWords:
    """classes: of the schema, in order. index: folded word to class index."""

    classes: tuple[str, ...]
    index: Mapping[str, int]

    def code(self, word: str) -> int:
        """The class's index; `UNLABELLED` for a word without a class."""
        return self.index.get(fold(word), UNLABELLED)

    def near(self, word: str) -> str | None:
        """The class whose words come near one that has none: perhaps a slip of the pen."""
        found = difflib.get_close_matches(fold(word), list(self.index), 1, cutoff=0.85)
        return self.classes[self.index[found[0]]] if found else None


def fold(word: str) -> str:
    """Letters and digits of a word, case folded."""
    return "".join(c for c in word.casefold() if c.isalnum())


def label_words(file: Path | None = None, schema: TrafficSchema = FLOW64) -> LabelWords:
    """The words for a schema's classes: class names, then what we ship for it, then `file`, each over the ones before.

    Raises:
        ConfigError: a key that is no class; a word that one file gives to two classes; not readable.
    """
    index = {fold(name): i for i, name in enumerate(schema.classes)}
    shipped = config_file("labels", schema.name)
    for path in (shipped if shipped.is_file() else None, file):
        if path is not None:
            index |= _read(path, schema.classes)
    return LabelWords(schema.classes, index)


def _read(path: Path, classes: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, words in load_yaml(path, _WordFile).root.items():
        if name not in classes:
            near = difflib.get_close_matches(name, classes, 1)
            raise ConfigError(
                f"'{printable(name, 60)}' is no class",
                where=path,
                remedy=f"perhaps {near[0]}?" if near else f"classes: {', '.join(classes)}",
            )
        for word in words:
            key, code = fold(word), classes.index(name)
            if not key:
                raise ConfigError(f"'{printable(word, 60)}' has neither letter nor digit", where=path)
            if found.setdefault(key, code) != code:
                raise ConfigError(
                    f"'{printable(word, 60)}' stands for {classes[found[key]]} and for {name}", where=path
                )
    return found
