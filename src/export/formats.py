"""The formats of an exported file: what writes it, and what asks it."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from src.errors import UserError
from src.export.graph import not_exported, quiet
from src.export.settings import ONNX, TORCH

METADATA = "calipers"
"""Under what the description stands in a file: a metadata property, or an extra file."""
LARGEST = 2_000_000_000
"""Bytes of weights: a little less than what a message of protobuf holds, which an ONNX file is."""

Writer = Callable[[ExportedProgram, Mapping[str, Any], Path], None]
Reader = Callable[[Path], Callable[[Tensor], Tensor]]


def write_onnx(program: ExportedProgram, about: Mapping[str, Any], path: Path) -> None:
    """Write a program in one ONNX file.

    Raises:
        UserError: it is too large, or something in it has no counterpart in ONNX.
    """
    size = sum(each.numel() * each.element_size() for each in program.state_dict.values())
    if size > LARGEST:
        raise UserError(
            f"format=onnx: the weights take {size / 1e9:.1f} GB, and one file holds 2 GB: give "
            "precision=float16 or format=torch."
        )
    name, shape = about["input"]["name"], about["input"]["shape"]
    named = {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
    try:
        with quiet():
            written: Any = torch.onnx.export(
                program,
                input_names=[name],
                output_names=["probabilities"],
                dynamic_shapes={name: named},
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # as in `trace`
        raise not_exported(about["method"], error) from error
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # the names of folders on this machine
    written.model.metadata_props[METADATA] = json.dumps(about)
    written.save(path)


def ask_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a file as others do.

    Raises:
        UserError: onnxruntime cannot load it; or, when it is asked, not run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with _runs():
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def answer(inputs: Tensor) -> Tensor:
        with _runs():
            return torch.from_numpy(session.run(None, {given.name: inputs.numpy()})[0])

    return answer


@contextmanager
def _runs() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Those of onnxruntime have no common name.
        raise UserError(
            f"onnxruntime cannot run the exported file, which is not left: {error}. Try "
            "format=torch."
        ) from error


def write_torch(program: ExportedProgram, about: Mapping[str, Any], path: Path) -> None:
    """Write a program in torch's own format."""
    # Given a path, torch would write its last part into the file.
    with quiet(), path.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA: json.dumps(about)})


def ask_torch(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a file as others do."""
    with quiet():
        return torch.export.load(path).module()


FORMATS: dict[str, tuple[Writer, Reader]] = {
    ONNX: (write_onnx, ask_onnx),
    TORCH: (write_torch, ask_torch),
}
