"""Protobuf <-> the domain's nouns. Messages stop here."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, error_details_pb2, status_pb2

from atelier.generation import Failure, Generation, Priority, Provenance, Result, State
from atelier.output import Crop, ImageFormat, ImageOutput, Resize, VideoFormat, VideoOutput
from atelier.spec import ImageSpec, Spec, VideoSpec
from atelier.status import DOMAIN, MAX_MESSAGE_BYTES, cut
from atelier.v1 import generation_pb2 as pb

MAX_REASON_BYTES = 63  # as google.rpc.ErrorInfo has it

_STATES = {state: pb.GenerationState.Value(f"GENERATION_STATE_{state}") for state in State}
_STATES_BACK: dict[int, State] = {number: state for state, number in _STATES.items()}
_PRIORITIES = {p: pb.Priority.Value(f"PRIORITY_{p}") for p in Priority}
_PRIORITIES_BACK: dict[int, Priority] = {number: p for p, number in _PRIORITIES.items()}
_IMAGE_FORMATS_BACK: dict[int, ImageFormat] = {
    pb.ImageFormat.Value(f"IMAGE_FORMAT_{f}"): f for f in ImageFormat
}
_VIDEO_FORMATS_BACK: dict[int, VideoFormat] = {
    pb.VideoFormat.Value(f"VIDEO_FORMAT_{f}"): f for f in VideoFormat
}
_RESULT_FIELDS = (
    "index", "object_key", "content_type", "size_bytes", "width", "height", "sha256", "seed",
    "frames", "frames_per_second", "codec", "thumbnail_key", "withheld",
)  # fmt: skip


def state_from(number: int) -> State | None:
    """The state of an enum value; None for an unknown or unspecified one."""
    return _STATES_BACK.get(number)


def state_to(state: State) -> pb.GenerationState.ValueType:
    """The enum value of a state."""
    return pb.GenerationState.ValueType(_STATES[state])


def priority_from(number: int) -> Priority | None:
    """The class of an enum value; NORMAL where unspecified, None for an unknown one."""
    return Priority.NORMAL if number == 0 else _PRIORITIES_BACK.get(number)


def priority_to(priority: Priority) -> pb.Priority.ValueType:
    """The enum value of a class."""
    return pb.Priority.ValueType(_PRIORITIES[priority])


def time_to(moment: datetime | None) -> Timestamp | None:
    """A Timestamp, or None: protobuf takes None as unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def time_from(stamp: Timestamp) -> datetime:
    """The moment in UTC."""
    return stamp.ToDatetime(tzinfo=UTC)


def optional_time_from(message: Message, field: str) -> datetime | None:
    """The moment in a Timestamp field of `message`; None where it is unset."""
    return time_from(getattr(message, field)) if message.HasField(field) else None


def generation_to(generation: Generation) -> pb.Generation:
    """The message for a caller or for another part; progress and URLs are added by who knows."""
    message = pb.Generation(
        id=generation.id,
        tenant=generation.tenant,
        model=generation.model,
        state=state_to(generation.state),
        attempt=generation.attempt,
        results=[result_to(result) for result in generation.results],
        create_time=time_to(generation.create_time),
        start_time=time_to(generation.start_time),
        finish_time=time_to(generation.finish_time),
        labels=generation.labels,
        request_id=generation.request_id,
        priority=priority_to(generation.priority),
        deadline=time_to(generation.deadline),
        preset=generation.preset,
        webhook_url=generation.webhook_url,
    )
    if isinstance(generation.spec, VideoSpec):
        message.video.CopyFrom(video_to(generation.spec))
    else:
        message.image.CopyFrom(image_to(generation.spec))
    if generation.failure:
        message.failure.CopyFrom(failure_to(generation.failure))
    if generation.provenance:
        message.provenance.CopyFrom(provenance_to(generation.provenance))
    return message


def generation_from(
    message: pb.Generation, request_hash: bytes = b"", trace_parent: str = ""
) -> Generation:
    """What a part was told to run or to store; states and results are not read from messages."""
    return Generation(
        id=message.id,
        tenant=message.tenant,
        model=message.model,
        spec=spec_from(message),
        create_time=time_from(message.create_time),
        attempt=message.attempt,
        priority=priority_from(message.priority) or Priority.NORMAL,
        deadline=optional_time_from(message, "deadline"),
        labels=dict(message.labels),
        request_id=message.request_id,
        request_hash=request_hash,
        preset=message.preset,
        webhook_url=message.webhook_url,
        trace_parent=trace_parent,
    )


def spec_from(message: pb.Generation) -> Spec:
    """What to make, every parameter filled in by the gateway."""
    is_video = message.WhichOneof("spec") == "video"
    return video_from(message.video) if is_video else image_from(message.image)


def image_to(spec: ImageSpec) -> pb.ImageSpec:
    """Every parameter filled in."""
    return pb.ImageSpec(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        guidance=spec.guidance,
        seed=spec.seed,
        count=spec.count,
        sampler=spec.sampler,
        output=_image_output_to(spec.output),
        init_image=_input_to(spec.init_image),
        mask_image=_input_to(spec.mask_image),
        strength=spec.strength if spec.init_image else None,
        preview_every=spec.preview_every or None,
    )


def image_from(message: pb.ImageSpec) -> ImageSpec:
    """A spec that was filled in by the gateway."""
    return ImageSpec(
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        width=message.width,
        height=message.height,
        steps=message.steps,
        guidance=message.guidance,
        seed=message.seed,
        count=message.count,
        sampler=message.sampler,
        output=_image_output_from(message.output),
        init_image=message.init_image.object_key,
        mask_image=message.mask_image.object_key,
        strength=message.strength if message.HasField("strength") else 1.0,
        preview_every=message.preview_every,
    )


def _input_to(key: str) -> pb.InputImage | None:
    """A picture that was brought; None where there is none."""
    return pb.InputImage(object_key=key) if key else None


def _image_output_to(output: ImageOutput) -> pb.ImageOutput:
    message = pb.ImageOutput(
        format=pb.ImageFormat.Value(f"IMAGE_FORMAT_{output.format}"),
        quality=output.quality or None,
        thumbnail_size=output.thumbnail_size or None,
        omit_metadata=output.omit_metadata,
    )
    if crop := output.crop:
        message.crop.CopyFrom(pb.Crop(x=crop.x, y=crop.y, width=crop.width, height=crop.height))
    if resize := output.resize:
        message.resize.CopyFrom(pb.Resize(width=resize.width or None, height=resize.height or None))
    return message


def _image_output_from(message: pb.ImageOutput) -> ImageOutput:
    crop, resize = message.crop, message.resize
    return ImageOutput(
        image_format_from(message.format) or ImageFormat.PNG,
        message.quality,
        message.thumbnail_size,
        message.omit_metadata,
        Crop(crop.x, crop.y, crop.width, crop.height) if message.HasField("crop") else None,
        Resize(resize.width, resize.height) if message.HasField("resize") else None,
    )


def image_format_from(number: int) -> ImageFormat | None:
    """The format of an enum value; PNG where unspecified, None for an unknown one."""
    return ImageFormat.PNG if number == 0 else _IMAGE_FORMATS_BACK.get(number)


def video_to(spec: VideoSpec) -> pb.VideoSpec:
    """Every parameter filled in."""
    return pb.VideoSpec(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        width=spec.width,
        height=spec.height,
        steps=spec.steps,
        guidance=spec.guidance,
        seed=spec.seed,
        frames=spec.frames,
        frames_per_second=spec.frames_per_second,
        sampler=spec.sampler,
        output=pb.VideoOutput(
            format=pb.VideoFormat.Value(f"VIDEO_FORMAT_{spec.output.format}"),
            omit_metadata=spec.output.omit_metadata,
            thumbnail_size=spec.output.thumbnail_size or None,
        ),
        first_frame=_input_to(spec.first_frame),
        preview_every=spec.preview_every or None,
    )


def video_from(message: pb.VideoSpec) -> VideoSpec:
    """A spec that was filled in by the gateway."""
    return VideoSpec(
        prompt=message.prompt,
        negative_prompt=message.negative_prompt,
        width=message.width,
        height=message.height,
        steps=message.steps,
        guidance=message.guidance,
        seed=message.seed,
        frames=message.frames,
        frames_per_second=message.frames_per_second,
        sampler=message.sampler,
        output=VideoOutput(
            video_format_from(message.output.format) or VideoFormat.MP4,
            message.output.omit_metadata,
            message.output.thumbnail_size,
        ),
        first_frame=message.first_frame.object_key,
        preview_every=message.preview_every,
    )


def video_format_from(number: int) -> VideoFormat | None:
    """The format of an enum value; MP4 where unspecified, None for an unknown one."""
    return VideoFormat.MP4 if number == 0 else _VIDEO_FORMATS_BACK.get(number)


def result_to(result: Result) -> pb.Result:
    """A result without URL."""
    message = pb.Result(**{name: getattr(result, name) for name in _RESULT_FIELDS})
    if result.frames_per_second:
        message.duration_seconds = result.frames / result.frames_per_second
    return message


def result_from(message: pb.Result) -> Result:
    """A result as its agent reports it."""
    return Result(**{name: getattr(message, name) for name in _RESULT_FIELDS})


def provenance_to(provenance: Provenance) -> pb.Provenance:
    """What made it."""
    return pb.Provenance(
        model_version=provenance.model_version,
        engine=provenance.engine,
        sampler=provenance.sampler,
        device=provenance.device,
    )


def provenance_from(message: pb.Provenance) -> Provenance:
    """What made it, as its agent reports it."""
    return Provenance(message.model_version, message.engine, message.sampler, message.device)


def failure_to(failure: Failure) -> status_pb2.Status:
    """Why it failed, with the reason as ErrorInfo."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason=failure.reason, domain=DOMAIN))
    return status_pb2.Status(
        code=code_pb2.Code.Value(failure.code), message=failure.message, details=[packed]
    )


def failure_from(status: status_pb2.Status) -> Failure:
    """Why it failed, as its agent reports it: its word is cut to what can be stored and sent on."""
    reason = "UNKNOWN"
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason = info.reason
    known = status.code in code_pb2.Code.values() and status.code != code_pb2.OK
    return Failure(
        code_pb2.Code.Name(status.code) if known else "UNKNOWN",
        cut(reason.replace("\0", ""), MAX_REASON_BYTES),
        cut(status.message.replace("\0", ""), MAX_MESSAGE_BYTES),
    )
