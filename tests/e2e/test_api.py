"""What callers meet: bad input, idempotency, lists, cancelling, the fleet."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from atelier.v1 import fleet_pb2, generation_pb2, model_pb2
from atelier.v1 import generation_pb2 as pb
from tests.e2e.conftest import MODEL, Stack, create, wait_until

pytestmark = pytest.mark.real

ID = "019f3c3a-0000-7000-8000-000000000000"
PROMPT = "a red circle on a blue background"


def refusal(call: Callable[[], Any]) -> tuple[str, list[str]]:
    """The status code and the fields at fault."""
    with pytest.raises(grpc.RpcError) as refused:
        answer = call()
        list(answer) if hasattr(answer, "cancel") else answer
    status = rpc_status.from_call(refused.value)
    assert status is not None and status.message
    fields = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            fields = [v.field for v in bad.field_violations]
            assert all(v.description for v in bad.field_violations)
    return refused.value.code().name, fields


@pytest.mark.parametrize(
    ("image", "fields"),
    [
        ({"width": 0}, ["image.width"]),
        ({"width": 65}, ["image.width"]),
        ({"height": 4096}, ["image.height"]),
        ({"steps": 0}, ["image.steps"]),
        ({"steps": 10_000}, ["image.steps"]),
        ({"guidance": float("nan")}, ["image.guidance"]),
        ({"prompt": ""}, ["image.prompt"]),
        ({"prompt": "x" * 100_000}, ["image.prompt"]),
        ({"seed": -1}, ["image.seed"]),
        ({"seed": 2**32}, ["image.seed"]),
        ({"sampler": "magic"}, ["image.sampler"]),
        ({"width": 0, "steps": 0, "prompt": " "}, ["image.prompt", "image.width", "image.steps"]),
    ],
)
def test_bad_fields_are_named_and_go_no_further(
    stack: Stack, image: dict[str, Any], fields: list[str]
) -> None:
    request = create(image.pop("prompt", PROMPT), **image)
    scheduler_before = stack.log_of("scheduler")
    lines_before = stack.log_of("gateway").count("call refused")
    code, found = refusal(lambda: stack.generations.CreateGeneration(request, timeout=10))
    assert (code, found) == ("INVALID_ARGUMENT", fields)
    assert stack.log_of("gateway").count("call refused") == lines_before + 1
    assert all(field in stack.log_of("gateway").splitlines()[-1] for field in fields)
    assert stack.log_of("scheduler") == scheduler_before


def test_unknown_names_and_malformed_ids(stack: Stack) -> None:
    service = stack.generations
    unknown = create(PROMPT)
    unknown.model = "nobody"
    preset = create(PROMPT)
    preset.preset = "nobody"
    generate = pb.GenerateRequest(create=unknown)
    assert [
        refusal(lambda: service.CreateGeneration(unknown, timeout=10)),
        refusal(lambda: service.CreateGeneration(preset, timeout=10)),
        refusal(lambda: service.Generate(generate, timeout=10)),
        refusal(lambda: service.GetGeneration(pb.GetGenerationRequest(id="x"), timeout=10)),
        refusal(lambda: service.GetGeneration(pb.GetGenerationRequest(id=ID), timeout=10)),
        refusal(lambda: service.WatchGeneration(pb.WatchGenerationRequest(id=ID), timeout=10)),
        refusal(lambda: service.CancelGeneration(pb.CancelGenerationRequest(id=ID), timeout=10)),
        refusal(lambda: stack.models.GetModel(model_pb2.GetModelRequest(name="x"), timeout=10)),
    ] == [
        ("INVALID_ARGUMENT", ["model"]),
        ("INVALID_ARGUMENT", ["preset"]),
        ("INVALID_ARGUMENT", ["create.model"]),
        ("INVALID_ARGUMENT", ["id"]),
        ("NOT_FOUND", []),
        ("NOT_FOUND", []),
        ("NOT_FOUND", []),
        ("NOT_FOUND", []),
    ]


def test_garbage_is_no_internal_error(stack: Stack) -> None:
    method = "/atelier.v1.GenerationService/CreateGeneration"
    call = stack.channel.unary_unary(method, lambda b: b, lambda b: b)
    for garbage in (b"\xff\xff\xff", b"\x12\x02\xff\xfe"):
        assert refusal(lambda data=garbage: call(data, timeout=10))[0] == "INVALID_ARGUMENT"  # type: ignore[misc]


def test_fifty_clients_with_one_key_make_one_generation(stack: Stack) -> None:
    request = create(PROMPT, seed=1)
    request.request_id = f"test-{time.time_ns()}"

    def send(_: int) -> str:
        answer = stack.generations.CreateGeneration(request, timeout=30)
        return str(answer.generation.id)

    with ThreadPoolExecutor(50) as pool:
        ids = set(pool.map(send, range(50)))
    assert len(ids) == 1
    other = create(PROMPT, seed=2)
    other.request_id = request.request_id
    assert refusal(lambda: stack.generations.CreateGeneration(other, timeout=10))[0] == (
        "ALREADY_EXISTS"
    )


def test_lists_page_by_label_and_refuse_a_token_of_another_query(stack: Stack) -> None:
    mark = {"test": f"{time.time_ns()}"}
    made = []
    for seed in range(5):
        request = create(PROMPT, seed=seed, steps=1)
        request.labels.update(mark)
        made.append(stack.generations.CreateGeneration(request, timeout=10).generation.id)
    query = pb.ListGenerationsRequest(page_size=2, filter=pb.GenerationFilter(labels=mark))
    found: list[str] = []
    while True:
        page = stack.generations.ListGenerations(query, timeout=10)
        found += [generation.id for generation in page.generations]
        assert len(page.generations) <= 2
        if not page.next_page_token:
            break
        query.page_token = page.next_page_token
    assert found == made[::-1]
    query.filter.model = MODEL
    assert refusal(lambda: stack.generations.ListGenerations(query, timeout=10)) == (
        "INVALID_ARGUMENT", ["page_token"],
    )  # fmt: skip


def test_cancelling_a_running_generation_is_heard_and_final(stack: Stack) -> None:
    long = stack.create(PROMPT, steps=100, count=8)

    def state() -> generation_pb2.Generation:
        request = pb.GetGenerationRequest(id=long)
        return stack.generations.GetGeneration(request, timeout=10).generation

    wait_until(lambda: state().progress.step > 0, 60)
    stack.generations.CancelGeneration(pb.CancelGenerationRequest(id=long), timeout=10)
    assert stack.wait(long).state == pb.GENERATION_STATE_CANCELLED
    again = stack.generations.CancelGeneration(pb.CancelGenerationRequest(id=long), timeout=10)
    assert again.generation.state == pb.GENERATION_STATE_CANCELLED
    devices = stack.fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=10).devices
    assert all(long != one.id for device in devices for one in device.running)


def test_a_model_tells_its_limits(stack: Stack) -> None:
    models = stack.models.ListModels(model_pb2.ListModelsRequest(), timeout=10).models
    [model] = [model for model in models if model.name == MODEL]
    limits = {limit.field: limit for limit in model.limits}
    assert (limits["steps"].minimum, limits["width"].unit) == (1, "pixels")
    assert {"ddim", "euler", "euler_ancestral", "dpmpp_2m"} <= set(model.samplers)


def test_the_fleet_shows_its_device_with_the_model_resident(stack: Stack) -> None:
    stack.draw(PROMPT, steps=1)
    [device] = stack.fleet.ListDevices(fleet_pb2.ListDevicesRequest(), timeout=10).devices
    assert device.state == fleet_pb2.DEVICE_STATE_READY
    assert MODEL in device.resident_models
    assert 0 < device.reserved_bytes < device.capacity_bytes
    assert not stack.fleet.ListQueues(fleet_pb2.ListQueuesRequest(), timeout=10).queues
