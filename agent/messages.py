"""Protobuf <-> the agent's nouns. Messages stop here. Pure."""

from __future__ import annotations

from agent.work import (
    Attempt,
    DeviceFacts,
    DeviceSample,
    Failed,
    ModelChanged,
    Phase,
    Progressed,
    Released,
    Succeeded,
    Told,
    Work,
)
from atelier.status import to_status
from atelier.translate import image_from, provenance_to, result_to
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import generation_pb2

_PHASES = {phase: generation_pb2.Phase.Value(f"PHASE_{phase}") for phase in Phase}


def attempt_from(message: pb.Attempt) -> Attempt:
    """Names one attempt."""
    return Attempt(message.generation_id, message.lease_token, message.device_id)


def attempt_to(attempt: Attempt) -> pb.Attempt:
    """Names one attempt."""
    return pb.Attempt(
        generation_id=attempt.generation_id,
        lease_token=attempt.lease_token,
        device_id=attempt.device_id,
        released=attempt.released,
    )


def work_from(message: pb.RunGeneration) -> Work | None:
    """What to run; None where it is nothing that this agent can make (a video)."""
    generation = message.generation
    if generation.WhichOneof("spec") != "image":
        return None
    return Work(
        attempt=attempt_from(message.attempt),
        tenant=generation.tenant,
        model=generation.model,
        spec=image_from(generation.image),
    )


def hello_to(
    node: str, devices: list[DeviceFacts], attempts: list[Attempt], epoch: int
) -> pb.ConnectRequest:
    """The first message of a stream."""
    return pb.ConnectRequest(
        hello=pb.Hello(
            node=node,
            devices=[
                pb.DeviceFacts(
                    id=device.id,
                    hardware=device.hardware,
                    capacity_bytes=device.capacity_bytes,
                    resident_models=device.resident_models,
                )
                for device in devices
            ],
            attempts=[attempt_to(attempt) for attempt in attempts],
            epoch=epoch,
        )
    )


def report_to(samples: list[DeviceSample]) -> pb.ConnectRequest:
    """The heartbeat."""
    return pb.ConnectRequest(
        device_report=pb.DeviceReport(
            samples=[
                pb.DeviceSample(
                    device_id=sample.device_id,
                    healthy=sample.healthy,
                    reason=sample.reason,
                    measured_bytes=sample.measured_bytes,
                    utilisation_percent=sample.utilisation_percent,
                    resident_models=sample.resident_models,
                )
                for sample in samples
            ]
        )
    )


def told_to(told: Told) -> pb.ConnectRequest:
    """What happened, as a message."""
    match told:
        case Progressed():
            return pb.ConnectRequest(
                progress=pb.AttemptProgress(
                    attempt=attempt_to(told.attempt),
                    phase=generation_pb2.Phase.ValueType(_PHASES[told.phase]),
                    step=told.step,
                    total_steps=told.total_steps,
                    step_seconds=told.step_seconds,
                )
            )
        case Released():
            return pb.ConnectRequest(
                device_released=pb.DeviceReleased(attempt=attempt_to(told.attempt))
            )
        case Succeeded():
            return pb.ConnectRequest(
                succeeded=pb.AttemptSucceeded(
                    attempt=attempt_to(told.attempt),
                    results=[result_to(result) for result in told.results],
                    provenance=provenance_to(told.provenance),
                )
            )
        case Failed():
            return pb.ConnectRequest(
                failed=pb.AttemptFailed(
                    attempt=attempt_to(told.attempt),
                    failure=to_status(told.error),
                    retryable=told.retryable,
                    cancelled=told.cancelled,
                )
            )
        case ModelChanged():
            return pb.ConnectRequest(
                model_changed=pb.ModelChanged(
                    device_id=told.device_id,
                    model=told.model,
                    resident=told.resident,
                    failure=to_status(told.error) if told.error else None,
                    seconds=told.seconds,
                )
            )
