"""A Triton Python model that only sleeps: a device as its profile says, without any arithmetic.

The same file serves as each of a checkpoint's three parts (its `part` says which). One device is
one thing at a time: whoever computes holds a lock in the Triton's own folder, so steps and decodes
take turns as they would on one GPU, also across processes. What it did goes into `spans.jsonl` in
that folder, seconds on the machine's monotonic clock: what the profile says it took (`nominal`),
and what it took (`began`, `ended`), with the requests by the number that their guidance bears.
"""

import fcntl
import json
import os
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

GUIDANCE_STEP = 1e-3  # request n has guidance 1 + n * GUIDANCE_STEP
PIXELS = 64


class TritonPythonModel:
    """Triton's interface."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        told = {name: value["string_value"] for name, value in config["parameters"].items()}
        self.part, self.card = told["part"], told["card"]
        self.step_a, self.step_c = float(told["step_a"]), float(told["step_c"])
        self.decode = float(told["decode"])
        self.lock = os.open("device.lock", os.O_CREAT | os.O_WRONLY)
        mark = f"{self.card}.loading"
        if self.part == "text_encoder":  # the first that an agent loads: the load begins here
            with open(mark, "w") as file:
                file.write(repr(_process_began()))
        elif self.part == "vae_decoder":  # the last: whatever is left of the load is slept
            with open(mark) as file:
                began = float(file.read())
            seconds = float(told["load"])
            time.sleep(max(0.0, began + seconds - time.monotonic()))
            self._tell("load", began, seconds, [], 0)

    def execute(self, requests: list[Any]) -> list[Any]:
        if self.part == "denoiser":
            return self._step(requests)
        return [self._answer(request) for request in requests]

    def _step(self, requests: list[Any]) -> list[Any]:
        """One step of the rows of all requests: a batch, where Triton merges them."""
        numbers, answers = [], []
        for request in requests:
            latents, guidance = _get(request, "latents"), _get(request, "guidance")
            numbers += [_number(g) for g in guidance[:, 0]]
            # The decoder sees latents only: so they bear the request's guidance too.
            after = np.ones_like(latents) * guidance[:, :, None, None]
            answers.append(_response({"next_latents": after, "denoised": after}))
        self._compute("steps", self.step_a + self.step_c * len(numbers), numbers, len(numbers))
        return answers

    def _answer(self, request: Any) -> Any:
        if self.part == "text_encoder":
            shape = (*_get(request, "input_ids").shape, 4)
            return _response({"text_embeddings": np.zeros(shape, np.float32)})
        latents = _get(request, "latents")
        numbers = [_number(row[0, 0, 0]) for row in latents]
        self._compute("decode", self.decode * len(numbers), numbers, len(numbers))
        return _response({"images": np.zeros((len(numbers), PIXELS, PIXELS, 3), np.uint8)})

    def _compute(self, kind: str, seconds: float, numbers: list[int], rows: int) -> None:
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        try:
            began = time.monotonic()
            time.sleep(seconds)
            self._tell(kind, began, seconds, numbers, rows)
        finally:
            fcntl.flock(self.lock, fcntl.LOCK_UN)

    def _tell(self, kind: str, began: float, nominal: float, numbers: list[int], rows: int) -> None:
        span = {
            "kind": kind, "model": self.card, "began": began, "ended": time.monotonic(),
            "nominal": nominal, "requests": numbers, "rows": rows,
        }  # fmt: skip
        with open("spans.jsonl", "a") as file:
            file.write(json.dumps(span) + "\n")


def _get(request: Any, name: str) -> Any:
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _response(outputs: dict[str, Any]) -> Any:
    return pb_utils.InferenceResponse([pb_utils.Tensor(n, v) for n, v in outputs.items()])


def _number(guidance: Any) -> int:
    return round((float(guidance) - 1.0) / GUIDANCE_STEP)


def _process_began() -> float:
    """When this process was started, on the monotonic clock: before Python was up."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - age
