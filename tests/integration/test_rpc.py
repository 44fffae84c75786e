"""What a server of ours answers to bytes that are no message."""

from __future__ import annotations

import grpc
import pytest

from atelier.service import serving
from tests.support.processes import free_address

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
