"""TLS at the door: certificates that change under it, and callers who are known by theirs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError

from atelier.catalog import Catalog
from atelier.config import GatewaySettings
from atelier.service import serving
from atelier.tls import CertificateFiles
from atelier.v1 import model_pb2, model_pb2_grpc
from gateway.certificates import callers_by_uri
from gateway.identity import Caller, Context, IdentityInterceptor, caller
from gateway.keys import Keys
from gateway.model_servicer import ModelServicer
from tests.support.cards import toy_card
from tests.support.ports import free_address

SHOP = "spiffe://example.org/service/shop"
ANYONE = Caller("local", frozenset({"read"}))

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl to make keys with")


def certificate(folder: Path, name: str, *names: str) -> tuple[Path, Path]:
    """A certificate that signs itself, and its key."""
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=" + SHOP.replace("/", "\\/"),
         "-out", paths[0], "-keyout", paths[1],
         "-addext", f"subjectAltName={','.join(names)}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return paths


class Asked(ModelServicer):
    """Keeps who asked."""

    def __init__(self) -> None:
        super().__init__(Catalog({"toy": toy_card()}))
        self.by: list[str] = []

    async def ListModels(
        self, request: model_pb2.ListModelsRequest, context: Context
    ) -> model_pb2.ListModelsResponse:
        self.by.append(caller().tenant)
        return await super().ListModels(request, context)


@asynccontextmanager
async def door(files: CertificateFiles, **keys: Any) -> AsyncIterator[tuple[str, Asked]]:
    async def nobody(key_id: str) -> None:
        return None

    asked, address = Asked(), free_address()

    def register(server: grpc.aio.Server) -> None:
        model_pb2_grpc.add_ModelServiceServicer_to_server(asked, server)

    interceptors = [IdentityInterceptor(Keys(nobody, **keys).identify)]
    credentials = files.credentials()
    async with serving(address, [], register, interceptors=interceptors, credentials=credentials):
        yield address, asked


def shown(trusted: Path, own: tuple[Path, ...]) -> grpc.ChannelCredentials:
    """Of a caller with a certificate, or without."""
    chain, key = (path.read_bytes() for path in own) if own else (None, None)
    return grpc.ssl_channel_credentials(trusted.read_bytes(), key, chain)


async def answered(address: str, trusted: Path, *own: Path) -> str:
    """OK, or the code that a call ends with on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address, shown(trusted, own), options=options) as channel:
        try:
            models = model_pb2_grpc.ModelServiceStub(channel)
            await models.ListModels(model_pb2.ListModelsRequest(), timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def test_a_certificate_is_replaced_without_a_restart(tmp_path: Path) -> None:
    one, two = (certificate(tmp_path, name, "IP:127.0.0.1") for name in ("one", "two"))
    served = tmp_path / "served.pem", tmp_path / "served.key"
    for new, path in zip(one, served, strict=True):
        shutil.copy(new, path)
    async with door(CertificateFiles(*served), without=ANYONE) as (address, _):
        assert await answered(address, one[0]) == "OK"
        assert await answered(address, two[0]) == "UNAVAILABLE"
        shutil.copy(two[0], served[0])  # half of it: they do not belong together
        assert await answered(address, one[0]) == "OK"
        served[1].unlink()
        assert await answered(address, one[0]) == "OK"
        shutil.copy(two[1], served[1])
        assert await answered(address, two[0]) == "OK"
        assert await answered(address, one[0]) == "UNAVAILABLE"


async def test_a_caller_is_who_the_uri_in_its_certificate_says(tmp_path: Path) -> None:
    ours = certificate(tmp_path, "ours", "IP:127.0.0.1")
    shop = certificate(tmp_path, "shop", f"URI:{SHOP}")
    # Its common name is the shop's, as everybody's here; that says nothing.
    else_ = certificate(tmp_path, "else", "URI:spiffe://example.org/service/else")
    stranger = certificate(tmp_path, "stranger", f"URI:{SHOP}")
    trusted = tmp_path / "authority.pem"
    trusted.write_bytes(shop[0].read_bytes() + else_[0].read_bytes())
    known = callers_by_uri({SHOP: "shop"}, [], "house")
    async with door(CertificateFiles(*ours, trusted), certificates=known) as (address, asked):
        assert await answered(address, ours[0], *shop) == "OK"
        assert asked.by == ["shop"]
        assert await answered(address, ours[0], *else_) == "UNAUTHENTICATED"
        assert await answered(address, ours[0], *stranger) == "UNAVAILABLE"
        assert await answered(address, ours[0]) == "UNAVAILABLE"
        assert asked.by == ["shop"]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"gateway_listen": "0.0.0.0:7000"}, "is not loopback"),
        ({"gateway_listen": "0.0.0.0:7000", "require_keys": True}, "is not loopback"),
        (
            {"gateway_listen": "0.0.0.0:7000", "tls_certificate": "a", "tls_key": "b"}
            | {"require_keys": False},
            "ATELIER_REQUIRE_KEYS",
        ),
        ({"tls_certificate": "a"}, "give both"),
        ({"tls_client_authority": "a"}, "needs ATELIER_TLS_CERTIFICATE"),
        ({"certificate_tenants": {SHOP: "shop"}}, "need ATELIER_TLS_CLIENT_AUTHORITY"),
        ({"certificate_admins": [SHOP]}, "need ATELIER_TLS_CLIENT_AUTHORITY"),
    ],
)
def test_a_gateway_that_anybody_could_use_does_not_start(
    settings: dict[str, Any], why: str
) -> None:
    common: dict[str, Any] = {
        "gateway_listen": "127.0.0.1:7000", "scheduler_address": "127.0.0.1:7001",
        "s3_endpoint": "127.0.0.1:9", "s3_access_key": "a", "s3_secret_key": "s",
    }  # fmt: skip
    GatewaySettings(**common)
    with pytest.raises(ValidationError, match=why):
        GatewaySettings(**{**common, **settings})
    known = {"require_keys": True, "tls_certificate": "a", "tls_key": "b"}
    GatewaySettings(**{**common, **known, "gateway_listen": "0.0.0.0:7000"})
