"""What a server of ours answers to bytes that are no message, and when it is at fault itself."""

from __future__ import annotations

import grpc
import pytest

from atelier.service import serving
from atelier.v1 import model_pb2, model_pb2_grpc
from tests.support.ports import free_address

METHODS = {
    "unary": "/grpc.health.v1.Health/Check",
    "stream": "/grpc.health.v1.Health/Watch",
    "both": "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}


@pytest.mark.parametrize("kind", METHODS)
async def test_bytes_that_are_no_message_are_named_as_such(kind: str) -> None:
    address = free_address()
    async with (
        serving(address, [], lambda server: None),
        grpc.aio.insecure_channel(address) as line,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if kind == "unary":
                await line.unary_unary(METHODS[kind])(b"\xff", timeout=10)
            elif kind == "stream":
                async for _ in line.unary_stream(METHODS[kind])(b"\xff", timeout=10):
                    pass
            else:
                async for _ in line.stream_stream(METHODS[kind])(iter([b"\xff"]), timeout=10):
                    pass
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the request is not a valid protobuf message"


class Leaky(model_pb2_grpc.ModelServiceServicer):
    async def ListModels(self, request: object, context: object) -> model_pb2.ListModelsResponse:
        raise RuntimeError("dsn=postgres://u:secret@db/x")


async def test_a_fault_of_ours_is_told_by_a_number_only() -> None:
    address = free_address()
    async with (
        serving(
            address,
            [],
            lambda server: model_pb2_grpc.add_ModelServiceServicer_to_server(Leaky(), server),
        ),
        grpc.aio.insecure_channel(address) as line,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await model_pb2_grpc.ModelServiceStub(line).ListModels(
                model_pb2.ListModelsRequest(), timeout=10
            )
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    told = f"{caught.value.details()} {caught.value.trailing_metadata()}"
    assert "internal error, id=" in told
    assert "secret" not in told and "RuntimeError" not in told
