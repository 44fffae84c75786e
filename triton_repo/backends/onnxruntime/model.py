"""Runs model.onnx inside Triton's Python backend: a stand-in for the backend named onnxruntime.

NVIDIA's containers bring a C++ backend of that name. The Triton inside the `nvidia-pytriton` wheel
has only the Python backend, but Triton lets a backend itself be written in Python: a folder
`<backend directory>/onnxruntime/model.py` with this class makes `backend: "onnxruntime"` in a
config.pbtxt mean this file. So one model repository loads in both, unchanged.

Triton's dynamic batcher hands over requests, not a batch: putting their rows together is done here.

One process of this serves one model. Threads of one run: the parameter `intra_op_thread_count` of
the config.pbtxt (NVIDIA's name for it), else the variable ATELIER_ORT_THREADS, else 1: on a machine
shared by several models a second thread costs more than it brings.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

MODEL_FILE = "model.onnx"


class TritonPythonModel:
    """One instance of one model. Triton calls initialize once, execute in turn, finalize once."""

    def initialize(self, args):
        """Open the model; an exception here makes the load fail with its message."""
        config = json.loads(args["model_config"])
        parameter = config.get("parameters", {}).get("intra_op_thread_count", {})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(
            parameter.get("string_value") or os.environ.get("ATELIER_ORT_THREADS") or 1
        )
        options.inter_op_num_threads = 1
        path = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        providers = ["CPUExecutionProvider"]
        if args["model_instance_kind"] == "GPU":
            gpu = {"device_id": int(args["model_instance_device_id"])}
            providers.insert(0, ("CUDAExecutionProvider", gpu))
        self.session = onnxruntime.InferenceSession(path, options, providers=providers)
        self.inputs = [tensor.name for tensor in self.session.get_inputs()]
        self.outputs = [tensor.name for tensor in self.session.get_outputs()]

    def execute(self, requests):
        """Answer every request, in order: one run for all that have the same shapes."""
        responses = [None] * len(requests)
        groups = defaultdict(list)
        for index, request in enumerate(requests):
            feed = {
                name: pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in self.inputs
            }
            groups[tuple(feed[name].shape[1:] for name in self.inputs)].append((index, feed))
        for group in groups.values():
            for (index, _), response in zip(group, self._answer(group), strict=True):
                responses[index] = response
        return responses

    def _answer(self, group):
        """Responses to requests of equal shapes. If their run fails, each is run by itself, so
        that only the one at fault hears of it (an input_id out of range, say)."""
        feeds = [feed for _, feed in group]
        try:
            return self._run(feeds)
        except Exception as error:
            if len(group) > 1:
                return [response for request in group for response in self._answer([request])]
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))]

    def _run(self, feeds):
        """One run over the rows of all `feeds`, split again by request."""
        rows = {name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}
        results = self.session.run(self.outputs, rows)
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])
        split = zip(*(np.split(result, ends[:-1]) for result in results), strict=True)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor(*named) for named in zip(self.outputs, parts, strict=True)]
            )
            for parts in split
        ]

    def finalize(self):
        """Give the memory back before the process ends."""
        self.session = None
