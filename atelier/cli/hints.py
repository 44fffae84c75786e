"""How to go on, once a stack is up."""

from __future__ import annotations

import json
import shlex

_PYTHON = """\
import grpc
from atelier.v1 import generation_pb2 as pb, generation_pb2_grpc as rpc

key = open({key_file!r}).read().strip()
request = pb.GenerateRequest(inline_results=True)
request.create.model = {model!r}
request.create.image.prompt = {prompt!r}
with grpc.insecure_channel({address!r}) as channel:
    for answer in rpc.GenerationServiceStub(channel).Generate(
        request, metadata=[("authorization", "Bearer " + key)]
    ):
        print(answer.generation.progress.step, "steps done")
open("picture.png", "wb").write(answer.generation.results[0].inline_data)"""


def python(address: str, key_file: str, model: str, prompt: str) -> str:
    """A whole Python program that makes the picture."""
    return _PYTHON.format(address=address, key_file=key_file, model=model, prompt=prompt)


def grpcurl(address: str, key_file: str, model: str, prompt: str) -> str:
    """A grpcurl line that makes the picture; reflection spares it the proto files. The key comes
    from the environment: all of this machine can read a command's line."""
    body = json.dumps({"create": {"model": model, "image": {"prompt": prompt}}})
    return (
        f"KEY=$(cat {shlex.quote(key_file)}) grpcurl -plaintext -expand-headers"
        f" -H 'authorization: Bearer ${{KEY}}' -d {shlex.quote(body)} {address}"
        " atelier.v1.GenerationService/Generate"
    )


def command(atelier: str, state_dir: str | None, prompt: str) -> str:
    """An `atelier generate` line."""
    where = f" --state-dir {shlex.quote(state_dir)}" if state_dir else ""
    return f"{atelier} generate{where} {shlex.quote(prompt)}"
