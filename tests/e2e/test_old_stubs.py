"""Who was compiled against an earlier contract (tests/contract) is served by today's gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.json_format import MessageToDict, ParseDict

from tests.e2e.conftest import MODEL, Stack

pytestmark = pytest.mark.real

OLD = sorted((Path(__file__).parents[1] / "contract").glob("*.binpb"))


class OldClient:
    """Knows only what was in the contract then: its messages are not today's."""

    def __init__(self, image: Path, channel: grpc.Channel) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        for file in descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file:
            self._pool.Add(file)
        self._channel = channel

    def call(self, service: str, method: str, **fields: Any) -> list[dict[str, Any]]:
        """Every answer, with the fields that the contract had then."""
        named = self._pool.FindServiceByName(f"atelier.v1.{service}").methods_by_name[method]
        asked = message_factory.GetMessageClass(named.input_type)
        answer = message_factory.GetMessageClass(named.output_type)
        path = f"/atelier.v1.{service}/{method}"
        request = ParseDict(fields, asked())
        coders = (asked.SerializeToString, answer.FromString)
        if named.server_streaming:
            answers = [*self._channel.unary_stream(path, *coders)(request, timeout=60)]
        else:
            answers = [self._channel.unary_unary(path, *coders)(request, timeout=60)]
        return [MessageToDict(one, preserving_proto_field_name=True) for one in answers]


@pytest.fixture(params=OLD, ids=lambda path: path.stem)
def client(request: pytest.FixtureRequest, stack: Stack) -> OldClient:
    return OldClient(request.param, stack.channel)


def test_an_old_client_draws_lists_and_cancels(client: OldClient) -> None:
    [models] = client.call("ModelService", "ListModels")
    assert MODEL in [model["name"] for model in models["models"]]
    create = {
        "model": MODEL,
        "image": {"prompt": "a red circle on a blue background", "steps": 2},
        "labels": {"by": "an old client"},
    }
    *_, last = client.call("GenerationService", "Generate", create=create)
    drawn = last["generation"]
    assert drawn["state"] == "GENERATION_STATE_SUCCEEDED" and drawn["results"][0]["url"]
    [read] = client.call("GenerationService", "GetGeneration", id=drawn["id"])
    assert read["generation"]["image"] == drawn["image"]
    [page] = client.call(
        "GenerationService", "ListGenerations", filter={"labels": {"by": "an old client"}}
    )
    assert drawn["id"] in [generation["id"] for generation in page["generations"]]
    [cancelled] = client.call("GenerationService", "CancelGeneration", id=drawn["id"])
    assert cancelled["generation"]["state"] == "GENERATION_STATE_SUCCEEDED"
    [fleet] = client.call("FleetService", "ListDevices")
    assert fleet["devices"]


def test_an_old_client_reads_what_is_wrong(client: OldClient) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        client.call("GenerationService", "CreateGeneration", model="nobody")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "model" in refused.value.details()
