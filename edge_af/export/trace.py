"""Trace a PyTorch network to a clean graph.

`torch.fx` records the operators that the networks' code calls, and each becomes the ONNX operator of the same meaning.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from edge_af.data import YOUTUBE8M, Widths
from edge_af.errors import EdgeAfError
from edge_af.export.cleanup import MADE, NAMED_BY_INPUT, clean
from edge_af.export.graph import Graph, Node
from edge_af.models.networks import WithScores

PREFIX = "network."
"""Prefix of the names in a network wrapped in `WithScores`."""


def trace(network: nn.Module, classes: int, widths: Widths = YOUTUBE8M) -> Graph:
    """Return the clean graph of a network that maps features of these lengths to logits (n, classes).

    The graph has the inputs `visual` and `audio`, and the output `scores` (n, classes), the sigmoid of the logits. Its
    constants have the network's parameter names, and share memory with unchanged parameters.

    Raises:
        EdgeAfError: the network has operators that cannot be exported.
    """
    wrapped = WithScores(network).eval()
    try:
        module = fx.GraphModule(wrapped, fx.Tracer().trace(wrapped))
    except (fx.proxy.TraceError, TypeError) as error:
        raise EdgeAfError(f"the network cannot be traced: {error}.") from None
    with torch.no_grad():
        ShapeProp(module).propagate(torch.zeros(2, widths.visual), torch.zeros(2, widths.audio))
    reader = _Reader(module)
    for node in module.graph.nodes:
        reader.read(node)
    return clean(
        Graph(
            nodes=tuple(reader.nodes),
            constants=reader.constants,
            inputs={"visual": (None, widths.visual), "audio": (None, widths.audio)},
            outputs={"scores": (None, classes)},
        )
    )


class _Reader:
    """Converts the nodes of `torch.fx` to ONNX operators."""

    def __init__(self, module: fx.GraphModule) -> None:
        self._module = module
        self.nodes: list[Node] = []
        self.constants: dict[str, NDArray[Any]] = {
            _own(name): tensor.detach().numpy() for name, tensor in module.state_dict().items()
        }
        self._names: dict[fx.Node, str | tuple[str, ...]] = {}
        """Names of the tensors that each node computes."""
        self._shared: dict[tuple[Any, ...], str] = {}
        """Names of the constants in the code, each stored once."""

    def read(self, node: fx.Node) -> None:
        """Add the operators of one node.

        Raises:
            EdgeAfError: there is none for it.
        """
        if node.op == "placeholder":
            self._names[node] = str(node.target)
        elif node.op == "get_attr":
            self._names[node] = _own(str(node.target))
        elif node.op == "call_module":
            self._read_module(node, self._module.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            convert = CONVERTED.get(node.target)
            if convert is None:
                name = getattr(node.target, "__name__", node.target)
                raise EdgeAfError(f"{_place(node) or 'the network'}: the operator {name!r} cannot be exported.")
            convert(self, node)
        elif node.op == "output":
            last = self.nodes[-1]
            self.nodes[-1] = Node(last.op, last.name, last.inputs, ("scores",), last.attributes)

    def _read_module(self, node: fx.Node, module: nn.Module) -> None:
        path, (data,) = _own(str(node.target)), node.args
        if isinstance(module, nn.Dropout):
            self.rename(node, data)
        elif isinstance(module, nn.ReLU):
            self.add(node, "Relu", [data])
        elif isinstance(module, nn.Linear):
            if _rank(data) != 2 or module.bias is None:
                raise EdgeAfError(f"{path}: only layers with a bias, of a matrix (n, features), can be exported.")
            self.add(node, "Gemm", [data, f"{path}.weight", f"{path}.bias"], transB=1)
        elif isinstance(module, nn.BatchNorm1d) and module.affine and module.track_running_stats:
            parts = [f"{path}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
            # ONNX's attributes are float32.
            self.add(node, "BatchNormalization", [data, *parts], epsilon=float(np.float32(module.eps)))
        else:
            raise EdgeAfError(f"{path}: a layer of the type {type(module).__name__} cannot be exported.")

    def name(self, value: Any) -> str:
        """Return the name of a node's tensor, of a parameter, or of a number in the code."""
        if isinstance(value, fx.Node):
            found = self._names[value]
            assert isinstance(found, str)
            return found
        return value if isinstance(value, str) else self.constant(np.array(value, np.float32))

    def rename(self, node: fx.Node, value: Any) -> None:
        """Let a node's result be another node's tensor, or a constant."""
        self._names[node] = self.name(value)

    def constant(self, array: NDArray[Any]) -> str:
        """Return the name of a constant of the code."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._shared:
            self._shared[key] = f"{MADE}{len(self._shared)}"
            self.constants[self._shared[key]] = array
        return self._shared[key]

    def add(self, node: fx.Node, op: str, inputs: list[Any], *, outputs: int = 1, **attributes: Any) -> None:
        """Add an operator with the node's result; its names only have to be unique until cleanup assigns the final ones."""
        place = NAMED_BY_INPUT if op == "Split" else _place(node)
        names = tuple(f"{MADE}{node.name}_{number}" for number in range(outputs))
        title = f"{place}.{op.lower()}".lstrip(".")
        self.nodes.append(
            Node(op, f"{title}#{len(self.nodes)}", tuple(self.name(value) for value in inputs), names, attributes)
        )
        self._names[node] = names if outputs > 1 else names[0]

    def pick(self, node: fx.Node) -> None:
        """Read one of several results."""
        several, number = node.args
        found = self._names[several] if isinstance(several, fx.Node) else None
        if not isinstance(found, tuple) or not isinstance(number, int):
            raise EdgeAfError(f"{_place(node) or 'the network'}: indexing a tensor cannot be exported.")
        self._names[node] = found[number]


def _own(name: str) -> str:
    return name.removeprefix(PREFIX)


def _place(node: fx.Node) -> str:
    """Return the path of the module whose code calls a node, such as `visual.attention`."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return _own(f"{paths[-1]}.").rstrip(".") if paths else ""


def _rank(node: Any) -> int:
    return len(node.meta["tensor_meta"].shape)


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _elementwise(op: str) -> Callable[[_Reader, fx.Node], None]:
    return lambda reader, node: reader.add(node, op, list(node.args))


def _softmax(reader: _Reader, node: fx.Node) -> None:
    reader.add(node, "Softmax", [node.args[0]], axis=_argument(node, 1, "dim"))


def _concat(reader: _Reader, node: fx.Node) -> None:
    parts = list(cast(list[fx.Node], node.args[0]))
    if len(parts) > 1:
        reader.add(node, "Concat", parts, axis=_argument(node, 1, "dim", 0))
    else:
        reader.rename(node, parts[0])


def _reshape(reader: _Reader, node: fx.Node) -> None:
    data, *sizes = cast(tuple[Any, ...], node.args)
    if (parameter := reader.constants.get(reader.name(data))) is not None:
        reader.rename(node, reader.constant(parameter.reshape(sizes)))
        return
    reader.add(node, "Reshape", [data, reader.constant(np.array(sizes, np.int64))], allowzero=1)


def _transpose(reader: _Reader, node: fx.Node) -> None:
    data, first, second = cast(tuple[Any, ...], node.args)
    axes = list(range(_rank(data)))
    axes[first], axes[second] = axes[second], axes[first]
    reader.add(node, "Transpose", [data], perm=axes)


def _chunk(reader: _Reader, node: fx.Node) -> None:
    parts = _argument(node, 1, "chunks")
    reader.add(node, "Split", [node.args[0]], outputs=parts, axis=_argument(node, 2, "dim", 0), num_outputs=parts)


CONVERTED: Mapping[Any, Callable[[_Reader, fx.Node], None]] = {
    torch.relu: _elementwise("Relu"),
    torch.sigmoid: _elementwise("Sigmoid"),
    operator.add: _elementwise("Add"),
    operator.mul: _elementwise("Mul"),
    operator.truediv: _elementwise("Div"),
    operator.matmul: _elementwise("MatMul"),
    operator.getitem: _Reader.pick,
    torch.softmax: _softmax,
    torch.cat: _concat,
    "reshape": _reshape,
    "transpose": _transpose,
    "chunk": _chunk,
}
"""Conversion of each function and method that the networks' code calls."""
