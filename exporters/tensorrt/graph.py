"""An ONNX file on disk: its hash with the weights beside it, and the names of its nodes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from exporters.tensorrt.record import EngineError


@dataclass(frozen=True)
class Graph:
    """`sha256` is over the file and every file that its weights lie in."""

    path: Path
    sha256: str
    nodes: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Graph:
        """Read the structure; weights beside the file are hashed without being loaded.

        Raises:
            EngineError: it is no ONNX file, or its weights are missing.
        """
        if not path.is_file():
            raise EngineError(f"{path}: no such file: export the component to ONNX first")
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own, by whichever implementation is in use
            raise EngineError(f"{path}: not an ONNX file: {error}") from error
        beside = sorted(
            {
                ExternalDataInfo(tensor).location
                for tensor in model.graph.initializer
                if uses_external_data(tensor)
            }
        )
        digest = hashlib.sha256()
        for file in (path, *(path.parent / name for name in beside)):
            if not file.is_file():
                raise EngineError(
                    f"{path}: its weights should lie in {file.name}, which is missing"
                )
            digest.update(bytes.fromhex(file_sha256(file)))
        return cls(path, digest.hexdigest(), frozenset(node.name for node in model.graph.node))


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
