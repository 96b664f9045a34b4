"""Parts that several peers share. A peer's environment has them on its path, and imports only what its peer needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def torch_network(source: Path) -> tuple[Any, tuple[Any, Any]]:
    """Return the trained network with its sigmoid, in eval mode, and a batch of one video of zeros: visual and audio."""
    import torch

    from edge_af.models.networks import WithScores
    from edge_af.models.run import load_network

    run, network = load_network(source / "run")
    widths = run.config.features
    return WithScores(network).eval(), (torch.zeros(1, widths.visual), torch.zeros(1, widths.audio))


def tflite_scorer(path: Path, threads: int) -> Any:
    """Return a function from visual (1, width) and audio (1, width) features to scores, in LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    # The visual input is the wider one.
    inputs = sorted(interpreter.get_input_details(), key=lambda one: -one["shape"][-1])
    output = interpreter.get_output_details()[0]["index"]

    def score(visual: Any, audio: Any) -> Any:
        interpreter.set_tensor(inputs[0]["index"], visual)
        interpreter.set_tensor(inputs[1]["index"], audio)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return score
