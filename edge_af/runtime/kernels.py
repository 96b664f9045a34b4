"""Names of the kernels that a runtime uses for a file on a processor."""

from __future__ import annotations

from collections.abc import Iterable

_INTEGER = {"int8": "S8", "int4": "S4", "int2": "S2"}
_X86 = (
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx512bw", "AVX-512"),
    ("avx2", "AVX2"),
)
_X86_FLOAT = (("avx512f", "AVX-512"), ("fma", "FMA3"), ("avx", "AVX"))
_ARM = (("i8mm", "I8MM"), ("asimddp", "dot product"), ("asimd", "NEON"))


def kernels(
    runtime: str,
    precision: str,
    *,
    integer: bool,
    features: Iterable[str] | None,
    unsigned_weights: bool = False,
) -> str | None:
    """Name the kernels that a runtime uses, for tables: types of activations and weights, then the instructions.

    Args:
        runtime: `onnxruntime` or `litert`.
        precision: precision of the weights, as in a manifest.
        integer: True if the file's layers are multiplied in integers.
        features: instruction sets of the processor, by Linux's names.
        unsigned_weights: True if ONNX Runtime makes INT8 weights unsigned.

    Returns:
        for example `U8S8 AVX-512 VNNI`; None if the instruction sets are unknown.
    """
    known = set(features or ())
    instructions = integer_instructions(known)
    if instructions is None:
        return None
    is_x86 = "asimd" not in known
    if not integer or precision not in _INTEGER:
        return f"F32 {_first(_X86_FLOAT, known, 'SSE') if is_x86 else 'NEON'}"
    if runtime == "onnxruntime" and precision != "int8" and instructions == "NEON":
        # Counted under emulation of a Raspberry Pi 4: `MatMulNBits` has integer kernels only with dot product.
        return f"F32 NEON, {precision.upper()} weights dequantized"
    activations, weights = "S8", _INTEGER[precision]
    if runtime == "onnxruntime" and is_x86 and precision == "int8":
        activations = "U8"
        weights = "U8" if unsigned_weights else "S8"
    return f"{activations}{weights} {instructions}"


def integer_instructions(features: Iterable[str] | None) -> str | None:
    """Name a processor's best instructions for integer products, such as `AVX-512 VNNI`; None if they are unknown."""
    known = set(features or ())
    if "asimd" in known:
        return _first(_ARM, known, "NEON")
    return _first(_X86, known, "SSE") if known & {"sse4_1", "avx", "avx2"} else None


def _first(names: Iterable[tuple[str, str]], known: set[str], otherwise: str) -> str:
    return next((name for feature, name in names if feature in known), otherwise)
