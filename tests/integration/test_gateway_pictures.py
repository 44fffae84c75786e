"""Pictures that callers bring: the real gateway over a real object store and a real scheduler."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pydantic import SecretStr

from atelier.config import ObjectStoreSettings
from atelier.object_store import ObjectStore
from atelier.pictures import MAX_PICTURE_BYTES
from atelier.v1 import generation_pb2 as pb
from atelier.v1 import generation_pb2_grpc, model_pb2, model_pb2_grpc
from tests.support.cards import CARD
from tests.support.hostile import HOSTILE, picture, png, saved
from tests.support.ports import free_address
from tests.support.processes import Process, scheduler_process
from tests.support.s3 import s3_server

SECRET = "canary-secret"
FILE = saved(picture(), "PNG")
ENCODER = 'vae_encoder = "toy__vae_encoder"\n\n[schedule]'
INTERNALS = (SECRET, "Traceback", "/tests/", "PIL", "Pillow", "minio", "zlib")


@dataclass
class House:
    """A gateway as `atelier up` starts it, and its bucket."""

    stub: generation_pb2_grpc.GenerationServiceStub
    models: model_pb2_grpc.ModelServiceStub
    store: ObjectStore

    async def create(self, **image: object) -> pb.Generation:
        spec = pb.ImageSpec(prompt="a ring", **image)  # type: ignore[arg-type]
        request = pb.CreateGenerationRequest(model="toy", image=spec)
        return (await self.stub.CreateGeneration(request)).generation

    async def faults(self, **image: object) -> dict[str, str]:
        """What it says is wrong, by field."""
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.create(**image)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert not [word for word in INTERNALS if word in str(refused.value.details())]
        bad = error_details_pb2.BadRequest()
        [_, packed] = rpc_status.from_call(refused.value).details
        assert packed.Unpack(bad)
        return {violation.field: violation.description for violation in bad.field_violations}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a real S3 server listens."""
    with s3_server(tmp_path_factory.mktemp("s3"), "key", SECRET) as address:
        yield address


@pytest.fixture
def store(s3: str) -> ObjectStore:
    settings = ObjectStoreSettings(
        s3_endpoint=s3, s3_access_key="key", s3_secret_key=SecretStr(SECRET)
    )
    store = ObjectStore.from_settings(settings)
    if not store._client.bucket_exists(bucket_name="atelier"):
        store._client.make_bucket(bucket_name="atelier")
    return store


def gateway_process(folder: Path, scheduler_address: str, s3_endpoint: str) -> Process:
    """A gateway that serves a toy model which takes pictures; not started yet."""
    (folder / "toy.toml").write_text(CARD.replace("\n[schedule]", ENCODER, 1))
    address = free_address()
    return Process(
        "gateway",
        address,
        folder / "gateway.log",
        gateway_listen=address,
        scheduler_address=scheduler_address,
        model_repository=folder,
        require_keys="false",
        s3_endpoint=s3_endpoint,
        s3_access_key="key",
        s3_secret_key=SECRET,
    )


@pytest_asyncio.fixture
async def house(dsn: str, tmp_path: Path, s3: str, store: ObjectStore) -> AsyncIterator[House]:
    scheduler = scheduler_process(dsn, tmp_path)
    gateway = gateway_process(tmp_path, scheduler.address, s3)
    options = [("grpc.max_send_message_length", -1)]
    with scheduler, gateway:
        async with grpc.aio.insecure_channel(gateway.address, options=options) as channel:
            yield House(
                generation_pb2_grpc.GenerationServiceStub(channel),
                model_pb2_grpc.ModelServiceStub(channel),
                store,
            )


def key_of(data: bytes, suffix: str = "png") -> str:
    return f"inputs/local/{hashlib.sha256(data).hexdigest()}.{suffix}"


async def test_a_picture_is_kept_and_only_its_key_goes_on(house: House) -> None:
    made = await house.create(
        init_image=pb.InputImage(data=FILE),
        mask_image=pb.InputImage(data=saved(picture(), "WEBP")),
    )
    mask = key_of(saved(picture(), "WEBP"), "webp")
    read = (await house.stub.GetGeneration(pb.GetGenerationRequest(id=made.id))).generation
    for generation in (made, read):
        assert generation.image.init_image == pb.InputImage(object_key=key_of(FILE))
        assert generation.image.mask_image == pb.InputImage(object_key=mask)
        assert generation.image.strength == 1.0
    assert house.store.get(key_of(FILE)) == FILE
    again = await house.create(init_image=pb.InputImage(object_key=key_of(FILE)), strength=0.5)
    assert again.image.init_image.object_key == key_of(FILE)


async def test_the_same_request_is_the_same_generation(house: House) -> None:
    data = saved(picture(32, 32), "PNG")
    image = pb.ImageSpec(prompt="a ring", init_image=pb.InputImage(data=data))
    request = pb.CreateGenerationRequest(model="toy", request_id="mine", image=image)
    ids = {(await house.stub.CreateGeneration(request)).generation.id for _ in range(3)}
    assert len(ids) == 1
    request.image.init_image.data = FILE
    with pytest.raises(grpc.aio.AioRpcError) as other:
        await house.stub.CreateGeneration(request)
    assert other.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_hostile_files_are_refused_and_leave_nothing(house: House) -> None:
    for name, data in HOSTILE.items():
        bad = await house.faults(init_image=pb.InputImage(data=data), steps=0)
        assert set(bad) == {"image.init_image", "image.steps"}, name
        assert not any(house.store.has(key_of(data, s)) for s in ("png", "jpg", "webp", "avif"))


async def test_a_good_picture_is_not_kept_where_the_rest_is_bad(house: House) -> None:
    data = saved(picture(40, 40), "PNG")
    bad = await house.faults(init_image=pb.InputImage(data=data), strength=2.0)
    assert set(bad) == {"image.strength"}
    bad = await house.faults(
        init_image=pb.InputImage(data=data), mask_image=pb.InputImage(data=b"GIF89a")
    )
    assert set(bad) == {"image.mask_image"}
    assert not house.store.has(key_of(data))


async def test_keys_are_looked_at_too(house: House) -> None:
    keys = {name: f"results/local/g/1/{n}.png" for n, name in enumerate(HOSTILE)}
    for name, data in HOSTILE.items():
        house.store.put(keys[name], data, "image/png")
        bad = await house.faults(init_image=pb.InputImage(object_key=keys[name]))
        assert set(bad) == {"image.init_image"}, name


async def test_nobody_learns_what_others_have(house: House) -> None:
    house.store.put("results/locale/g/1/0.png", FILE, "image/png")
    house.store.put("inputs/other/x.png", FILE, "image/png")
    told = [
        await house.faults(init_image=pb.InputImage(object_key=key))
        for key in (
            "results/locale/g/1/0.png", "inputs/other/x.png", "inputs/other/none.png",
            "inputs/local/none.png", "results/local/../locale/g/1/0.png",
        )
    ]  # fmt: skip
    assert told == [told[0]] * 5
    assert set(told[0]) == {"image.init_image.object_key"}


async def test_two_pictures_of_8_mib_come_through_and_more_is_told_how_it_is(
    house: House,
) -> None:
    # Bytes behind the last chunk belong to no picture, and make it as large as one may be.
    full = png() + os.urandom(MAX_PICTURE_BYTES - len(png()))
    made = await house.create(
        init_image=pb.InputImage(data=full), mask_image=pb.InputImage(data=full)
    )
    assert made.image.mask_image.object_key == key_of(full)
    bad = await house.faults(init_image=pb.InputImage(data=full + b"x"))
    assert "more than 8 MiB" in bad["image.init_image"]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await house.create(init_image=pb.InputImage(data=full * 3))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in str(refused.value.details())


async def test_many_at_once_are_all_judged_rightly(house: House) -> None:
    good = [saved(picture(64 + n, 64), "PNG") for n in range(20)]
    bad = [*HOSTILE.values()] * 2
    calls = [house.create(init_image=pb.InputImage(data=data)) for data in [*good, *bad]]
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(one, pb.Generation) for one in done] == [True] * 20 + [False] * len(bad)
    codes = {one.code() for one in done if isinstance(one, grpc.aio.AioRpcError)}
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_the_model_says_what_it_takes(house: House) -> None:
    answer = await house.models.GetModel(model_pb2.GetModelRequest(name="toy"))
    assert answer.model.takes_images and not answer.model.takes_first_frame
    assert "strength" in [limit.field for limit in answer.model.limits]


async def test_a_store_that_is_away_is_told_as_such(tmp_path: Path) -> None:
    with gateway_process(tmp_path, free_address(), free_address()) as gateway:
        async with grpc.aio.insecure_channel(gateway.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            image = pb.ImageSpec(prompt="a ring", init_image=pb.InputImage(data=FILE))
            with pytest.raises(grpc.aio.AioRpcError) as away:
                request = pb.CreateGenerationRequest(model="toy", image=image)
                await stub.CreateGeneration(request)
    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "object store" in str(away.value.details())
