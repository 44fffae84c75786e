"""A thin client for Python: `Client` for plain code, `AsyncClient` for asyncio.

    from atelier.client import Client, image

    with Client("127.0.0.1:50051", key="...") as client:
        ring = image("tiny-image", "a green ring on a blue background", seed=7)
        client.generate_to_file(ring, "ring.png", progress=lambda g: print(g.progress.step))

What may pass is tried again, with the request_id of the first try, so that nothing is made twice;
a watch that breaks is taken up again. What may not pass is raised at once, as an AtelierError with
its code, reason and violations. Messages are those of the contract (`atelier.v1.generation_pb2`).
"""

from atelier.client.async_client import AsyncClient
from atelier.client.client import Client
from atelier.client.failures import GenerationError
from atelier.client.line import Tls
from atelier.client.requests import image, video
from atelier.errors import AtelierError

__all__ = ["AsyncClient", "AtelierError", "Client", "GenerationError", "Tls", "image", "video"]
