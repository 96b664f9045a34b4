"""Trace a PyTorch network to a clean graph."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from edge_af.data import YOUTUBE8M, Widths
from edge_af.errors import EdgeAfError
from edge_af.export.cleanup import MADE, UNKNOWN_MODULE, clean
from edge_af.export.graph import BATCH, OPSET, Graph, Node
from edge_af.models.networks import WithScores

PREFIX = "network."
"""Prefix of parameter names in a network wrapped in `WithScores`."""


def trace(network: nn.Module, classes: int, widths: Widths = YOUTUBE8M) -> Graph:
    """Return the clean graph of a network that maps features of these lengths to logits (n, classes).

    The graph has the inputs `visual` and `audio`, and the output `scores` (n, classes), the sigmoid of the logits. Its
    constants have the network's parameter names, and share memory with unchanged parameters.

    Raises:
        EdgeAfError: the network has operators that cannot be exported.
    """
    wrapped = WithScores(network).eval()
    # A batch of 2, because the exporter treats a dimension of 1 as fixed.
    example = (torch.zeros(2, widths.visual), torch.zeros(2, widths.audio))
    batch = torch.export.Dim(BATCH)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            wrapped,
            example,
            dynamo=True,
            input_names=["visual", "audio"],
            output_names=["scores"],
            dynamic_shapes={"visual": {0: batch}, "audio": {0: batch}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    traced = program.model.graph
    # The exporter names a tensor computed from a parameter after the operator, such as `view`.
    made = {
        _own(name): f"{MADE}{name}"
        for name in traced.initializers
        if name not in wrapped.state_dict() and not name.startswith(MADE)
    }

    def named(name: str | None) -> str:
        return made.get(_own(name), _own(name))

    nodes = []
    for number, node in enumerate(traced):
        if node.domain not in ("", "ai.onnx"):
            raise EdgeAfError(
                f"node {node.name!r}: the exporter made an operator that is not ONNX's own ({node.domain})."
            )
        nodes.append(
            Node(
                op=node.op_type,
                # Names only have to be unique until cleanup assigns the final ones.
                name=f"{_place(node.metadata_props, node.op_type)}#{number}",
                inputs=tuple(named(value.name) if value is not None else "" for value in node.inputs),
                outputs=tuple(named(value.name) for value in node.outputs),
                attributes={name: _plain(attribute.value) for name, attribute in node.attributes.items()},
            )
        )
    graph = Graph(
        nodes=tuple(nodes),
        constants={
            named(name): value.const_value.numpy()
            for name, value in traced.initializers.items()
            if value.const_value is not None
        },
        inputs={"visual": (None, widths.visual), "audio": (None, widths.audio)},
        outputs={"scores": (None, classes)},
    )
    return clean(graph)


def _own(name: str | None) -> str:
    assert name is not None  # the exporter names every value of a graph it hands out
    return name.removeprefix(PREFIX)


def _place(metadata: Any, op: str) -> str:
    """Return the path of the module that created a node, and the operator: `visual.attention.softmax`."""
    scopes = ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "[]"))
    module = _own(f"{scopes[-2]}.").rstrip(".") if len(scopes) > 1 else UNKNOWN_MODULE
    return f"{module}.{op.lower()}".lstrip(".")


def _plain(value: Any) -> Any:
    """Convert an attribute's value for `onnx.helper.make_node`."""
    if hasattr(value, "numpy"):
        import onnx

        return onnx.numpy_helper.from_array(np.asarray(value.numpy()))
    return list(value) if isinstance(value, tuple) else value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's messages, which the user cannot act on; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    # While set, the exporter keeps the log levels. Restore it, because torch fails to import if it is empty.
    said = os.environ.setdefault("TORCH_LOGS", "")
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        if not said:
            del os.environ["TORCH_LOGS"]
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
