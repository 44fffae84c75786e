"""Two tenants do as they like, through the wire, and each meets what a small model of the house
says: its own as it left it, and of the other nothing.

Hypothesis makes up what they do, and shrinks what goes wrong to the few calls that matter. In
`make test` it makes up the same each time; EXAMPLES=300 makes up as many others (`make fuzz`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import grpc
import pytest
from grpc_status import rpc_status
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from atelier.v1 import access_pb2, access_pb2_grpc, generation_pb2_grpc, preset_pb2, preset_pb2_grpc
from atelier.v1 import generation_pb2 as pb
from tests.fuzz.stack import Target, running
from tests.support.databases import another_database
from tests.support.door import refusal_of

TENANTS = ("left", "right")
tenants = st.sampled_from(TENANTS)
names, prompts = st.sampled_from(("one", "two")), st.sampled_from(("a ring", "a cup"))
ANY = st.integers(0, 30)  # which of all generations, whoever's
SECONDS = 20.0


class House(RuleBasedStateMachine):
    """What stands, as the calls so far left it."""

    target: ClassVar[Target]
    channel: ClassVar[grpc.Channel]

    def __init__(self) -> None:
        super().__init__()
        self.door = generation_pb2_grpc.GenerationServiceStub(self.channel)
        self.presets = preset_pb2_grpc.PresetServiceStub(self.channel)
        keys = access_pb2_grpc.AccessServiceStub(self.channel)
        shown = [("authorization", f"Bearer {self.target.key}")]
        self.keys, new = {}, os.urandom(6).hex()
        for tenant in TENANTS:
            asked = access_pb2.CreateKeyRequest(
                tenant=f"{tenant}-{new}", scopes=["generate", "read"]
            )
            self.keys[tenant] = keys.CreateKey(asked, metadata=shown).text
        self.owner: dict[str, str] = {}  # of each generation, in the order of their making
        self.state: dict[str, int] = {}
        self.asked: dict[tuple[str, str], tuple[str, str]] = {}  # id and prompt by request_id
        self.steps: dict[tuple[str, str], tuple[int, str]] = {}  # of presets, and their etags
        self.written = set[tuple[str, str]]()  # presets that were there once
        self.token: dict[str, str] = {}  # where a tenant's list goes on

    def tell(self, tenant: str, method: Callable[..., Any], request: Any) -> Any:
        """The answer, or the refusal's reason."""
        shown = [("authorization", f"Bearer {self.keys[tenant]}")]
        try:
            return method(request, metadata=shown, timeout=SECONDS)
        except grpc.RpcError as error:
            return refusal_of(rpc_status.from_call(error)).reason

    @rule(tenant=tenants, name=st.sampled_from(("", "one", "two")), prompt=prompts)
    def create(self, tenant: str, name: str, prompt: str) -> None:
        request = pb.CreateGenerationRequest(
            model="toy", request_id=name, image=pb.ImageSpec(prompt=prompt, steps=4)
        )
        told = self.tell(tenant, self.door.CreateGeneration, request)
        if name and (tenant, name) in self.asked:
            id_, before = self.asked[tenant, name]
            if before != prompt:
                assert told == "REQUEST_ID_REUSED"
            else:
                assert (told.generation.id, told.generation.state) == (id_, self.state[id_])
            return
        made = told.generation
        assert made.id not in self.owner
        assert made.image.prompt == prompt
        self.owner[made.id], self.state[made.id] = tenant, made.state
        assert made.state == pb.GENERATION_STATE_QUEUED
        if name:
            self.asked[tenant, name] = made.id, prompt

    @precondition(lambda self: self.owner)
    @rule(tenant=tenants, which=ANY)
    def get(self, tenant: str, which: int) -> None:
        id_ = self._one_of_all(which)
        told = self.tell(tenant, self.door.GetGeneration, pb.GetGenerationRequest(id=id_))
        if self._has(tenant, id_):
            assert told.generation.state == self.state[id_]
        else:
            assert told == "NOT_FOUND"

    @precondition(lambda self: self.owner)
    @rule(tenant=tenants, which=ANY)
    def cancel(self, tenant: str, which: int) -> None:
        id_ = self._one_of_all(which)
        told = self.tell(tenant, self.door.CancelGeneration, pb.CancelGenerationRequest(id=id_))
        if self._has(tenant, id_):
            assert told.generation.state == pb.GENERATION_STATE_CANCELLED
            self.state[id_] = pb.GENERATION_STATE_CANCELLED
        else:
            assert told == "NOT_FOUND"

    @precondition(lambda self: self.owner)
    @rule(tenant=tenants, which=ANY)
    def delete(self, tenant: str, which: int) -> None:
        id_ = self._one_of_all(which)
        told = self.tell(tenant, self.door.DeleteGeneration, pb.DeleteGenerationRequest(id=id_))
        if not self._has(tenant, id_):
            assert told == "NOT_FOUND"
        elif self.state[id_] == pb.GENERATION_STATE_QUEUED:
            assert told == "NOT_ENDED"
        else:  # there is no store here: what cannot be deleted whole stays whole
            assert told == "OBJECT_STORE_UNAVAILABLE"

    @rule(tenant=tenants, size=st.integers(1, 3), states=st.sampled_from(((), (1,), (5,))))
    def list_all(self, tenant: str, size: int, states: tuple[int, ...]) -> None:
        request, found = pb.ListGenerationsRequest(page_size=size), list[str]()
        request.filter.states.extend(states)
        while True:
            page = self.tell(tenant, self.door.ListGenerations, request)
            assert len(page.generations) <= size
            found += [one.id for one in page.generations]
            request.page_token = page.next_page_token
            if not request.page_token:
                break
            self.token[tenant] = request.page_token
        own = [id_ for id_ in self.state if self._has(tenant, id_)]
        assert found == sorted(
            (id_ for id_ in own if not states or self.state[id_] in states), reverse=True
        )

    @precondition(lambda self: self.token)
    @rule(tenant=tenants)
    def go_on_in_the_other_s_list(self, tenant: str) -> None:
        for other in self.token:
            if other != tenant:
                request = pb.ListGenerationsRequest(page_token=self.token[other], page_size=2)
                told = self.tell(tenant, self.door.ListGenerations, request)
                assert told == "INVALID_ARGUMENT"

    @rule(tenant=tenants, name=names, steps=st.integers(1, 9))
    def write_preset(self, tenant: str, name: str, steps: int) -> None:
        """Made, or changed by who read it last."""
        preset = preset_pb2.Preset(model="toy", name=name, image=pb.ImageSpec(steps=steps))
        create, update = preset_pb2.CreatePresetRequest, preset_pb2.UpdatePresetRequest
        known = self.steps.get((tenant, name))
        told = self.tell(tenant, self.presets.CreatePreset, create(preset=preset))
        if known is None:
            self.steps[tenant, name] = steps, told.preset.etag
            self.written.add((tenant, name))
            return
        if known[0] == steps:  # as it is: a retry whose answer was lost
            assert told.preset.etag == known[1]
            return
        assert told == "PRESET_EXISTS"
        preset.etag = "999"
        told = self.tell(tenant, self.presets.UpdatePreset, update(preset=preset))
        assert told == "ETAG_MISMATCH"
        preset.etag = known[1]
        told = self.tell(tenant, self.presets.UpdatePreset, update(preset=preset))
        assert told.preset.image.steps == steps
        self.steps[tenant, name] = steps, told.preset.etag

    @rule(tenant=tenants, name=names)
    def use_preset(self, tenant: str, name: str) -> None:
        request = pb.CreateGenerationRequest(
            model="toy", preset=name, image=pb.ImageSpec(prompt="a ring")
        )
        told = self.tell(tenant, self.door.CreateGeneration, request)
        if (tenant, name) not in self.steps:
            assert told == "INVALID_ARGUMENT"
            return
        made = told.generation
        assert made.image.steps == self.steps[tenant, name][0]
        self.owner[made.id], self.state[made.id] = tenant, made.state

    @rule(tenant=tenants, name=names)
    def delete_preset(self, tenant: str, name: str) -> None:
        asked = preset_pb2.DeletePresetRequest(model="toy", name=name)
        told = self.tell(tenant, self.presets.DeletePreset, asked)
        self.steps.pop((tenant, name), None)
        never = (tenant, name) not in self.written
        assert told == ("NOT_FOUND" if never else preset_pb2.DeletePresetResponse())

    def _one_of_all(self, which: int) -> str:
        return [*self.owner][which % len(self.owner)]

    def _has(self, tenant: str, id_: str) -> bool:
        return self.owner[id_] == tenant


@pytest.fixture(scope="module")
def house(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[House]]:
    folder: Path = tmp_path_factory.mktemp("two-tenants")
    with (
        running(another_database(postgres), folder) as target,
        grpc.insecure_channel(target.gateway.address) as channel,
    ):
        House.target, House.channel = target, channel
        yield House
        assert not target.faults()


def test_each_meets_its_own_and_of_the_other_nothing(house: type[House]) -> None:
    more = os.environ.get("EXAMPLES")
    chosen = settings(
        max_examples=int(more or 15),
        stateful_step_count=20,
        derandomize=not more,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(house, settings=chosen)
