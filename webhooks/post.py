"""One attempt: an HTTP request to where a caller sent us, and a bounded look at what comes back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from atelier.addresses import RefusedError, Target
from atelier.egress import Egress
from webhooks.schedule import Answer

TOTAL_SECONDS = 15.0
CONNECT_SECONDS = 5.0
READ_SECONDS = 5.0  # for the body of the answer
MAX_READ_BYTES = 64 * 2**10
TOLD_CHARACTERS = 200
MOST_ADDRESSES = 3  # tried one after the other where nobody listens


class Poster:
    """Keeps nothing between two requests: no connection, which would be one to a host's address
    and thus another host's too; no cookie."""

    def __init__(self, egress: Egress, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: whom to trust; None: whom this machine trusts."""
        self._egress = egress
        self._client = httpx2.AsyncClient(
            verify=tls or ssl.create_default_context(),
            trust_env=False,  # no proxy, which would look names up by itself
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=httpx2.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Post once; what goes wrong is an answer too."""
        try:
            async with asyncio.timeout(TOTAL_SECONDS):
                target, addresses = await self._egress.resolve(url)
                return await self._first_that_listens(target, addresses, body, headers)
        except RefusedError:
            return Answer(0, f"not asked: the URL {self._egress.rules.refusal}")
        except TimeoutError:
            return Answer(0, f"no answer within {TOTAL_SECONDS:g} s")
        except httpx2.TimeoutException:
            return Answer(0, "no answer in time")
        except httpx2.TransportError as error:
            return Answer(0, _printable(f"no answer: {error}"))

    async def _first_that_listens(
        self, target: Target, addresses: list[str], body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        *others, last = addresses[:MOST_ADDRESSES]
        for address in others:
            try:
                return await self._post(target, address, body, headers)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return await self._post(target, last, body, headers)

    async def _post(
        self, target: Target, address: str, body: bytes, headers: Mapping[str, str]
    ) -> Answer:
        """To that very address, asking for the host by its name: nobody looks it up again."""
        where = httpx2.URL(target.url).copy_with(host=address)
        async with self._client.stream(
            "POST",
            where,
            content=body,
            headers={**headers, "host": target.authority},
            extensions={"sni_hostname": target.host},
        ) as response:
            text = await _beginning(response)
            return Answer(response.status_code, text, _retry_after(response))


async def _beginning(response: httpx2.Response) -> str:
    """As it came: what is compressed stays so, and is not told."""
    read = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in response.aiter_raw(4_096):
                read += chunk
                if len(read) >= MAX_READ_BYTES:
                    break
    except (TimeoutError, httpx2.TransportError):
        pass  # the status is what counts, and it is there
    if "content-encoding" in response.headers:
        return ""
    return _printable(read[: 4 * TOLD_CHARACTERS].decode(errors="replace"))


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, or a date."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()[:TOLD_CHARACTERS]
