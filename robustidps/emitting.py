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
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32, name: str = "") -> str:
        """A constant, under a name that nothing else has yet; without one, it is numbered."""
        from onnx import numpy_helper

        name = name or f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype, order="C"), name))
        return name

    def node(self, operator: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """A node; gives its first output."""
        from onnx import helper

        outputs = outputs or [f"{operator.lower()}_{len(self.nodes)}"]
        name = f"{operator}/{outputs[0]}"
        self.nodes.append(helper.make_node(operator, list(inputs), outputs, name=name, **attributes))
        return outputs[0]

    def serialised(self, inputs: int, classes: int) -> bytes:
        """The file's content: `x` float32 [N, inputs] to `logits` float32 [N, classes]."""
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", inputs])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        content: bytes = model.SerializeToString()
        return content

    def save(self, path: Path, inputs: int, classes: int) -> None:
        """Writes one file, as `serialised` gives it.

        Raises:
            StorageError: full disk, read-only folder.
        """
        with writable(path):
            path.write_bytes(self.serialised(inputs, classes))
