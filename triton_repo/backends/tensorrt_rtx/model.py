"""Runs model.plan, an engine of TensorRT-RTX, inside Triton's Python backend.

Triton's own TensorRT backend reads plans of TensorRT alone. This folder in Triton's backend
directory makes `backend: "tensorrt_rtx"` in a config.pbtxt mean this file; Triton's Python needs
`pip install 'atelier-serving[tensorrt]'`, and the machine a GPU that the engine was built for.

Requests become batches as in the backend beside this one, which is why it must be there too.
"""

import importlib.util
from pathlib import Path

import tensorrt_rtx

from exporters.spec import PLAN_FILE
from exporters.tensorrt.session import EngineSession

_spec = importlib.util.spec_from_file_location(
    "requests_to_rows", Path(__file__).parents[1] / "onnxruntime" / "model.py"
)
_requests_to_rows = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_requests_to_rows)


class TritonPythonModel(_requests_to_rows.TritonPythonModel):
    """One instance of one model, on one GPU."""

    def initialize(self, args):
        """Load the engine; an exception here makes the load fail with its message."""
        path = Path(args["model_repository"]) / args["model_version"] / PLAN_FILE
        device = int(args["model_instance_device_id"])
        self.session = EngineSession(tensorrt_rtx, path.read_bytes(), device)
        self.inputs, self.outputs = self.session.inputs, self.session.outputs

    def finalize(self):
        """Give the memory back before the process ends."""
        self.session.close()
        self.session = None
