"""Protobuf <-> the agent's nouns. Messages stop here. Pure."""

from __future__ import annotations

from agent.work import (
    Attempt,
    BatchMeasured,
    DeviceFacts,
    DeviceSample,
    Failed,
    HostFacts,
    ModelChanged,
    Phase,
    Preempted,
    Probed,
    Progressed,
    Recycled,
    Released,
    Succeeded,
    Told,
    Trouble,
    Work,
)
from atelier.status import to_status
from atelier.translate import provenance_to, result_to, spec_from
from atelier.v1 import agent_pb2 as pb
from atelier.v1 import generation_pb2

NO_HOST = HostFacts()

_TROUBLES = {trouble: pb.DeviceTrouble.Value(f"DEVICE_TROUBLE_{trouble}") for trouble in Trouble}
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
    """What to run; None where it is nothing that this agent knows how to make."""
    generation = message.generation
    if generation.WhichOneof("spec") is None:
        return None
    return Work(
        attempt=attempt_from(message.attempt),
        tenant=generation.tenant,
        model=generation.model,
        spec=spec_from(generation),
        number=max(1, generation.attempt),
        rows_at_once=message.rows,
        alone=message.alone,
        trace_parent=message.trace_parent,
    )


def hello_to(
    node: str,
    devices: list[DeviceFacts],
    attempts: list[Attempt],
    epoch: int,
    host: HostFacts = NO_HOST,
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
            host_memory_bytes=host.capacity_bytes,
            host_models=host.models,
        )
    )


def report_to(samples: list[DeviceSample], host: HostFacts = NO_HOST) -> pb.ConnectRequest:
    """The heartbeat."""
    return pb.ConnectRequest(
        device_report=pb.DeviceReport(
            samples=[_sample_to(sample) for sample in samples],
            host_models=host.models,
            host_resident_bytes=host.resident_bytes,
        )
    )


def _sample_to(sample: DeviceSample) -> pb.DeviceSample:
    measure = sample.measure
    return pb.DeviceSample(
        device_id=sample.device_id,
        healthy=sample.healthy,
        reason=sample.reason,
        trouble=pb.DeviceTrouble.ValueType(_TROUBLES[sample.trouble]),
        resident_models=sample.resident_models,
        measured_bytes=measure.used_bytes,
        free_bytes=measure.free_bytes,
        total_bytes=measure.total_bytes,
        utilisation_percent=measure.utilisation_percent,
        temperature_celsius=measure.temperature_celsius,
        power_watts=measure.power_watts,
        uncorrected_ecc_errors=measure.uncorrected_ecc_errors,
        xids=[pb.XidEvent(code=code, age_seconds=age) for code, age in sample.xids],
        processes=[pb.DeviceProcess(pid=h.pid, bytes=h.bytes) for h in measure.holders],
        mig_profile=measure.mig_profile,
        driver_answered=measure.answered,
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
                    preview=told.preview,
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
                    encode_seconds=told.encode_seconds,
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
        case Preempted():
            return pb.ConnectRequest(
                preempted=pb.AttemptPreempted(attempt=attempt_to(told.attempt), step=told.step)
            )
        case ModelChanged():
            return pb.ConnectRequest(
                model_changed=pb.ModelChanged(
                    device_id=told.device_id,
                    model=told.model,
                    resident=told.resident,
                    failure=to_status(told.error) if told.error else None,
                    seconds=told.seconds,
                    measured_bytes=told.measured_bytes,
                    from_host_memory=told.from_host_memory,
                    triton_models=told.triton_models,
                )
            )
        case BatchMeasured():
            return pb.ConnectRequest(
                batch_measured=pb.BatchMeasured(
                    device_id=told.device_id,
                    model=told.model,
                    shape=told.shape,
                    rows=told.rows,
                    peak_bytes=told.peak_bytes,
                    quiet_bytes=told.quiet_bytes,
                    steps=told.steps,
                    step_seconds=told.step_seconds,
                    resident_models=told.resident_models,
                )
            )
        case Recycled():
            return pb.ConnectRequest(
                device_recycled=pb.DeviceRecycled(
                    device_id=told.device_id,
                    failure=to_status(told.error) if told.error else None,
                    seconds=told.seconds,
                )
            )
        case Probed():
            return pb.ConnectRequest(
                device_probed=pb.DeviceProbed(
                    device_id=told.device_id,
                    failure=to_status(told.error) if told.error else None,
                    seconds=told.seconds,
                )
            )
