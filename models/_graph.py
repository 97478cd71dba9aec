"""Writing an ONNX graph node by node: exact, without a converter, and in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robustidps.settings import writable

__all__ = ["Graph"]


class Graph:
    """A graph that grows: each call adds a node or a constant and gives the name of what it makes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        from onnx import numpy_helper

        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype, order="C"), name))
        return name

    def node(self, operator: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """A node; gives its first output."""
        from onnx import helper

        outputs = outputs or [f"{operator}_{len(self._nodes)}"]
        self._nodes.append(helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs[0]

    def save(self, path: Path, inputs: int, classes: int) -> None:
        """Writes it as one file, `x` float32 [N, inputs] to `logits` float32 [N, classes].

        Raises:
            StorageError: full disk, read-only folder.
        """
        import onnx
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self._nodes,
            self.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        with writable(path):
            onnx.save(model, str(path))
