"""The least that a gRPC server in Python can do: it answers what it was asked. Over grpc.aio, with
the options of our own servers and no interceptor; by its class of messages it decodes and encodes.

`python -m benchmarks.door_echo`: prints its port.
"""

from __future__ import annotations

import asyncio

import grpc

from atelier.rpc import SERVER_OPTIONS
from atelier.v1 import generation_pb2 as pb

METHOD = "/echo.Echo/Echo"


async def echo(
    request: pb.CreateGenerationRequest, context: grpc.aio.ServicerContext
) -> pb.CreateGenerationRequest:
    return request


async def main() -> None:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    handler = grpc.unary_unary_rpc_method_handler(
        echo,
        pb.CreateGenerationRequest.FromString,
        pb.CreateGenerationRequest.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
