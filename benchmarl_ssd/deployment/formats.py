"""The file formats: ONNX, and PyTorch's own exported programs."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarl_ssd.deployment.errors import ExportError
from benchmarl_ssd.deployment.graph import PolicyGraph, Port

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
"""The formats and what their files' names end with."""

METADATA_KEY = "benchmarl_ssd"
"""Name of the metadata, a JSON text, in a file."""

Runner = Callable[[Sequence[Tensor]], list[Tensor]]
"""Runs a file: from its inputs to its outputs, in the order of its ports."""


def check_format(format: str) -> None:
    """Make sure that a format is known and what writes it is installed.

    Args:
        format: ``onnx`` or ``torch``.

    Raises:
        ExportError: if it is unknown.
        ImportError: if a package is missing.

    Examples:
        >>> check_format("torch")
    """
    if format not in FORMATS:
        raise ExportError(f"expected --format {' or '.join(FORMATS)}, found {format!r}")
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if format == "onnx" and missing:
        raise ImportError(
            f"expected {' and '.join(missing)} to write ONNX, found no such package; "
            'run: pip install "benchmarl-ssd[onnx]"'
        )


def capture(graph: PolicyGraph) -> torch.export.ExportedProgram:
    """Record what a policy computes, for batches of any size.

    Args:
        graph: the policy.

    Raises:
        ExportError: if PyTorch cannot follow it.
    """
    # Two rows: a size of one would be taken for a constant.
    example = tuple(_example(port) for port in graph.inputs)
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in example),)
    try:
        with torch.no_grad():
            program = torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever the policy's own code and the tracer may raise
        first = (str(error).splitlines() or [""])[0]
        raise ExportError(
            f"expected a policy that torch.export can follow, found {type(error).__name__}: "
            f"{first}; export a policy of MLP, CNN, GRU or LSTM layers"
        ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it tells the paths of this machine
    return program


def _example(port: Port) -> Tensor:
    return torch.ones(2, *port.shape).to(port.dtype)


def write(path: Path, graph: PolicyGraph, metadata: dict[str, Any], format: str) -> None:
    """Write a policy.

    Args:
        path: the file.
        graph: the policy.
        metadata: what the file says about itself.
        format: ``onnx`` or ``torch``.

    Raises:
        ExportError: if the policy cannot be expressed in the format.
    """
    program = capture(graph)
    text = json.dumps(metadata, allow_nan=False)
    if format == "torch":
        torch.export.save(program, path, extra_files={f"{METADATA_KEY}.json": text})
    else:
        content = _onnx(program, graph, text)
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _onnx(program: torch.export.ExportedProgram, graph: PolicyGraph, metadata: str) -> bytes:
    import onnx

    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
            warnings.simplefilter("ignore")
            with redirect_stdout(nowhere):
                exported = torch.onnx.export(
                    program,
                    input_names=[port.name for port in graph.inputs],
                    output_names=[port.name for port in graph.outputs],
                    dynamo=True,
                    verbose=False,
                )
    except torch.onnx.OnnxExporterError as error:
        first = (str(error).splitlines() or [""])[0]
        raise ExportError(
            f"expected a policy that ONNX can express, found {first}; try --format torch"
        ) from error
    assert exported is not None
    model = exported.model_proto
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = "batch"
    for node in model.graph.node:  # where in PyTorch it came from, with the paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    for value in model.graph.value_info:
        del value.metadata_props[:]
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def runner(path: Path, format: str) -> Runner | None:
    """Open a file to run it as its users will.

    Args:
        path: the file.
        format: ``onnx`` or ``torch``.

    Returns:
        What runs it; None if onnxruntime is not installed.
    """
    if format == "torch":
        module = torch.export.load(path).module()

        def run_torch(inputs: Sequence[Tensor]) -> list[Tensor]:
            with torch.no_grad():
                return list(module(*inputs))

        return run_torch
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run_onnx(inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run_onnx


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what an exported file says about itself.

    Args:
        path: a file that :func:`export_policy` wrote.

    Raises:
        ExportError: if it has no such entry.
    """
    path = Path(path)
    text = None
    if path.suffix == FORMATS["torch"]:
        extra = {f"{METADATA_KEY}.json": ""}
        torch.export.load(path, extra_files=extra)
        text = extra[f"{METADATA_KEY}.json"]
    else:
        import onnx

        for entry in onnx.load(path).metadata_props:
            if entry.key == METADATA_KEY:
                text = entry.value
    if not text:
        raise ExportError(f"expected a policy that benchmarl-ssd wrote, found none at {path}")
    return json.loads(text)
