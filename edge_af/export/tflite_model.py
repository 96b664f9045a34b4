"""Build a TFLite model and its bytes with the object API of LiteRT's schema."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edge_af.__version__ import __version__
from edge_af.errors import EdgeAfError
from edge_af.export.graph import Shape
from edge_af.export.quantize import Affine

FILE_IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Alignment of constants in the file, required by the schema and good for vector loads."""
SIGNATURE = "serving_default"
SIZE_LIMIT = 2**31 - 1

TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.int32): schema.TensorType.INT32,
}


class AlignedBuffer(schema.BufferT):
    """A constant's bytes, packed here because the schema's own packing aligns to one byte and copies twice."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        offset = None
        if self.data is not None:
            builder.StartVector(1, self.data.nbytes, ALIGNMENT)
            builder.head -= self.data.nbytes
            memoryview(builder.Bytes)[builder.head : builder.head + self.data.nbytes] = memoryview(self.data).cast("B")
            offset = builder.EndVector()
        schema.BufferStart(builder)
        if offset is not None:
            schema.BufferAddData(builder, offset)
        end: int = schema.BufferEnd(builder)
        return end


class TfliteModel:
    """One subgraph. Add tensors and operators in order of execution, then call `write`."""

    def __init__(self) -> None:
        # By convention, buffer 0 is empty and stands for "no constant".
        self._buffers = [AlignedBuffer()]
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}

    def tensor(
        self, name: str, shape: Shape, batch_one: tuple[int, ...], dtype: Any, affine: Affine | None = None
    ) -> int:
        """Add an activation; return its index.

        Args:
            name: name in the ONNX graph.
            shape: None for dimensions that depend on the batch.
            batch_one: shape at batch 1, the file's default.
            dtype: float32 or int8.
            affine: quantization of int8 values.
        """
        added = schema.TensorT()
        added.name, added.type = name, TYPES[np.dtype(dtype)]
        added.shape = np.array(batch_one, np.int32)
        added.hasRank = True
        if None in shape:
            added.shapeSignature = np.array([-1 if dim is None else dim for dim in shape], np.int32)
        if affine is not None:
            added.quantization = _quantization(np.array([affine.scale], np.float32), affine.zero_point)
        return self._add(added)

    def constant(self, name: str, array: NDArray[Any], scales: NDArray[np.float32] | None = None) -> int:
        """Add a constant; return its index.

        Args:
            name: as in the ONNX graph.
            array: float32, float16, int8 or int32.
            scales: of int8 values, a single one or one per index of the first axis.
        """
        quantization = None if scales is None else _quantization(scales, 0)
        return self._constant(name, TYPES[array.dtype], array.shape, np.ascontiguousarray(array), quantization)

    def int4(self, name: str, integers: NDArray[Any], scales: NDArray[np.float32]) -> int:
        """Add an even number of integers (out, in) from -8 to 7 as INT4; return the tensor's index.

        Args:
            name: as in the ONNX graph.
            integers: int8.
            scales: (out,), or (out, in / block), which are stored as float16.
        """
        nibbles = integers.reshape(-1).view(np.uint8)
        packed = (nibbles[0::2] & 15) | (nibbles[1::2] << 4)
        if scales.ndim == 1:
            quantization = _quantization(scales, 0)
        else:
            details = schema.BlockwiseQuantizationT()
            details.scales = self.constant(f"{name}.scales", scales.astype(np.float16))
            details.zeroPoints = -1  # none: the integers are symmetric
            details.blockSize = integers.shape[1] // scales.shape[1]
            quantization = schema.QuantizationParametersT()
            quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
            quantization.details = details
        return self._constant(name, schema.TensorType.INT4, integers.shape, packed, quantization)

    def operator(self, op: str, inputs: list[int], outputs: list[int], options: Any = None, version: int = 1) -> None:
        """Add an operator by its schema name, such as `FULLY_CONNECTED`, with its options object if it has one."""
        code = getattr(schema.BuiltinOperator, op)
        added = schema.OperatorT()
        added.opcodeIndex = self._codes.setdefault((code, version), len(self._codes))
        added.inputs, added.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            added.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
            added.builtinOptions = options
        self._operators.append(added)

    def write(self, path: Path, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> None:
        """Write the file with the signature `serving_default`, which maps these names to tensor indices.

        Raises:
            EdgeAfError: the file would exceed the 2 GB limit of flatbuffers.
        """
        model = self._model(inputs, outputs)
        held = sum(buffer.data.nbytes + 2 * ALIGNMENT for buffer in self._buffers if buffer.data is not None)
        scales = sum(
            12 * len(tensor.quantization.scale)
            for tensor in self._tensors
            if tensor.quantization is not None and tensor.quantization.scale is not None
        )
        size = held + scales + 1024 * (16 + len(self._tensors) + len(self._operators))
        if size > SIZE_LIMIT:
            raise EdgeAfError(f"{path.name}: {size:,} bytes; a TFLite file holds at most 2 GB.")
        # Allocate the final size at once, because growing would double it and copy it each time.
        builder = flatbuffers.Builder(size)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        with path.open("wb") as file:
            file.write(memoryview(builder.Bytes)[builder.Head() :])

    def _constant(self, name: str, kind: int, shape: tuple[int, ...], data: NDArray[Any], quantization: Any) -> int:
        added = schema.TensorT()
        added.name, added.type = name, kind
        added.shape = np.array(shape, np.int32)
        added.hasRank = True
        added.buffer = len(self._buffers)
        added.quantization = quantization
        buffer = AlignedBuffer()
        buffer.data = data
        self._buffers.append(buffer)
        return self._add(added)

    def _add(self, tensor: Any) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _model(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
        subgraph = schema.SubGraphT()
        subgraph.name = "main"
        subgraph.tensors, subgraph.operators = self._tensors, self._operators
        subgraph.inputs = np.array(list(inputs.values()), np.int32)
        subgraph.outputs = np.array(list(outputs.values()), np.int32)
        signature = schema.SignatureDefT()
        signature.signatureKey = SIGNATURE
        signature.inputs, signature.outputs = _tensor_maps(inputs), _tensor_maps(outputs)
        model = schema.ModelT()
        model.version = SCHEMA_VERSION
        model.description = f"edge-af {__version__}"
        model.subgraphs, model.buffers, model.signatureDefs = [subgraph], self._buffers, [signature]
        model.operatorCodes = []
        for code, version in self._codes:
            added = schema.OperatorCodeT()
            added.builtinCode, added.version = code, version
            # Readers that know fewer than 128 operators use the one-byte field.
            added.deprecatedBuiltinCode = min(code, 127)
            model.operatorCodes.append(added)
        return model


def _tensor_maps(tensors: Mapping[str, int]) -> list[Any]:
    maps = []
    for name, index in tensors.items():
        added = schema.TensorMapT()
        added.name, added.tensorIndex = name, index
        maps.append(added)
    return maps


def _quantization(scales: NDArray[np.float32], zero_point: int) -> Any:
    quantization = schema.QuantizationParametersT()
    quantization.scale = scales
    quantization.zeroPoint = np.full(len(scales), zero_point, np.int64)
    return quantization
