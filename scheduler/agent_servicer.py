"""AgentService: the agents' lines."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from atelier.v1 import agent_pb2 as pb
from atelier.v1 import agent_pb2_grpc as pb_grpc
from scheduler.fleet import Fleet


class AgentServicer(pb_grpc.AgentServiceServicer):
    """Hands each stream to the fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def Connect(
        self, request_iterator: AsyncIterator[pb.ConnectRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.ConnectResponse]:
        async for command in self._fleet.connect(request_iterator):
            yield command
