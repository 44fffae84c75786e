"""In the place of gRPC: calls between processes, to the handlers that the product registers.

A call keeps its order, and what is under way when it is cut is lost; its two ends hear of that when
each may, the server perhaps seconds later. A peer that is frozen is given up by the other side
after some seconds, as keepalive does (atelier/rpc.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc

from atelier.errors import AtelierError
from tests.simulated.loop import PROCESS, Process, apart
from tests.simulated.world import KEEPALIVE, World

# For so long who leads no more may still answer what is under way, or what it thawed with.
LAPSED_SECONDS = 0.5


class Server:
    """What listens at an address: grpc's handlers by the name of their method."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.methods: dict[str, Any] = {}
        self.under_way: list[asyncio.Task[Any]] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        pass

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.methods |= handlers


@asynccontextmanager
async def serving(
    _address: str,
    _services: Any,
    register: Callable[[Any], object],
    *_: Any,
    grace_seconds: Callable[[], float],
    **__: Any,
) -> AsyncIterator[None]:
    """In the place of atelier.service.serving. Several may listen at one address, as with gRPC."""
    process = PROCESS.get()
    assert process
    world: World = process.world
    server = world.servers[process] = Server(process)
    register(server)
    world.tell(f"{process.name} serves")
    try:
        yield
    finally:
        world.servers.pop(process, None)
        left = [task for task in server.under_way if not task.done()]
        if left:
            await asyncio.wait(left, timeout=grace_seconds())
            for task in left:
                task.cancel()
            await asyncio.wait(left)


_END = object()


class _Way:
    """One direction of a call: in order, each message some time under way."""

    def __init__(self, world: World) -> None:
        self.arrived: asyncio.Queue[Any] = asyncio.Queue()
        self.open = True
        self._world, self._last = world, 0.0

    def send(self, message: Any) -> None:
        # A moment later than the one before: timers of one moment come in any order.
        self._last = max(self._last + 1e-6, self._world.loop.now + self._world.delay())
        apart(self._world.loop, self._last - self._world.loop.now, lambda: self._arrive(message))

    def end(self, seconds: float, why: Any = _END) -> None:
        """What is under way is lost; whoever reads is told, after so long."""
        self.open = False
        apart(self._world.loop, seconds, lambda: self.arrived.put_nowait(why))

    def _arrive(self, message: Any) -> None:
        if self.open:
            self.arrived.put_nowait(message)


class Call:
    """One call from a process to a server, of any of gRPC's four kinds."""

    def __init__(self, world: World, client: Process, server: Server, method: str) -> None:
        self.world, self.client = world, client
        self.ends = client, server.process
        self._handler = server.methods[method]
        self._up, self._down = _Way(world), _Way(world)
        self._over = False
        world.calls.append(self)
        self._served = server.process.start(self._serve())
        server.under_way.append(self._served)
        if server.process.frozen:
            apart(world.loop, world.rng.uniform(*KEEPALIVE), self.cut_if_frozen)

    def cut_if_frozen(self) -> None:
        if any(end.frozen for end in self.ends):
            self.cut(0.0)

    def cut(self, client_seconds: float) -> None:
        """The connection breaks; the client hears of it after so long, the server when it may."""
        if self._over:
            return
        self._close()
        self._down.end(client_seconds, rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost"))
        slow = self.world.rng.random() < 0.3
        seconds = self.world.rng.uniform(0.0, 8.0) if slow else self.world.delay()
        self._up.end(seconds)
        apart(self.world.loop, seconds, self._served.cancel)

    def cancel(self) -> None:
        """The client wants no more."""
        if not self._over:
            self._close()
            self._up.end(self.world.delay())
            apart(self.world.loop, self.world.delay(), self._served.cancel)

    def _close(self) -> None:
        self._over = True
        self.world.calls.remove(self)

    # The client's side.

    async def write(self, message: Any) -> None:
        if self._over or not self._up.open:
            raise asyncio.InvalidStateError("the call is over")
        self._up.send(_copy(message))

    async def read(self) -> Any:
        if self.client.buried:
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "buried")
        message = await self._down.arrived.get()
        if message is _END:
            return grpc.aio.EOF
        if isinstance(message, BaseException):
            raise message
        return message

    # The server's side.

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self._up.arrived.get()) is not _END:
            yield message

    async def _serve(self) -> None:
        end: Any = _END
        try:
            if self._handler.unary_unary or self._handler.unary_stream:
                request = await self._up.arrived.get()
                if request is _END:
                    return
            if self._handler.unary_unary:
                self._answer(await self._handler.unary_unary(request, None))
            else:
                answers = (
                    self._handler.unary_stream(request, None)
                    if self._handler.unary_stream
                    else self._handler.stream_stream(self._requests(), None)
                )
                try:
                    async for answer in answers:
                        self._answer(answer)
                finally:
                    await answers.aclose()
        except AtelierError as error:
            end = rpc_error(grpc.StatusCode[error.code], error.message)
        except asyncio.CancelledError:
            end = rpc_error(grpc.StatusCode.UNAVAILABLE, "the server stops")
            raise
        except Exception as error:
            self.world.broken.append(f"a call failed: {error!r}")
            end = rpc_error(grpc.StatusCode.INTERNAL, repr(error))
        finally:
            if not self._over:
                self._down.send(end)
                self._up.open = False
                self._close()

    def _answer(self, message: Any) -> None:
        self._down.send(_copy(message))
        server = self.ends[1]
        allowed = max(self.world.lease_ends[server], server.thawed_at) + LAPSED_SECONDS
        if self.world.loop.now > allowed:
            self.world.broken.append(f"P7: {server.name} answers, and its lease ran out before")


def _copy(message: Any) -> Any:
    return type(message).FromString(message.SerializeToString())


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


def dial(world: World, method: str) -> Call:
    """A call by the present process to one of those that serve; a frozen one takes it, too.

    Raises:
        grpc.aio.AioRpcError: nobody serves.
    """
    client = PROCESS.get()
    assert client
    servers = list(world.servers.values())
    if not servers or client.buried:
        raise rpc_error(grpc.StatusCode.UNAVAILABLE, "nobody serves")
    return Call(world, client, world.rng.choice(servers), method)


async def ask(world: World, method: str, request: Any, seconds: float = 10.0) -> Any:
    """The answer to a unary call. Raises grpc.aio.AioRpcError."""
    call = dial(world, method)
    try:
        async with asyncio.timeout(seconds):
            await call.write(request)
            return await call.read()
    except TimeoutError:
        raise rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer") from None
    finally:
        call.cancel()
