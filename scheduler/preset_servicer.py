"""PresetStoreService: presets for the gateways, one method each."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc
from google.protobuf.json_format import MessageToDict, ParseDict

from atelier.preset_store import EVERYBODY, PresetKey, PresetStore, StoredPreset
from atelier.translate import time_to
from atelier.v1 import preset_pb2
from atelier.v1 import preset_store_pb2 as pb
from atelier.v1 import preset_store_pb2_grpc as pb_grpc

Context: TypeAlias = grpc.aio.ServicerContext


class PresetServicer(pb_grpc.PresetStoreServiceServicer):
    """An etag is a version in decimal; only the gateway's callers need not know."""

    def __init__(self, store: PresetStore) -> None:
        self._store = store

    async def WritePreset(
        self, request: pb.WritePresetRequest, context: Context
    ) -> pb.WritePresetResponse:
        preset = preset_from(request.preset, request.tenant)
        if request.preset.etag:
            written = await self._store.update(preset, int(request.preset.etag))
        else:
            written = await self._store.create(preset)
        return pb.WritePresetResponse(preset=preset_to(written))

    async def ReadPresets(
        self, request: pb.ReadPresetsRequest, context: Context
    ) -> pb.ReadPresetsResponse:
        asked = {_key(key, request.tenant): key for key in request.keys}
        found = await self._store.read([*asked])
        return pb.ReadPresetsResponse(
            found=[
                pb.FoundPreset(key=asked[key], preset=preset_to(preset))
                for key, preset in found.items()
            ]
        )

    async def ScanPresets(
        self, request: pb.ScanPresetsRequest, context: Context
    ) -> pb.ScanPresetsResponse:
        after = _key(request.after, request.tenant) if request.HasField("after") else None
        found = await self._store.scan(
            request.tenant, model=request.model, after=after, limit=request.limit
        )
        return pb.ScanPresetsResponse(presets=[preset_to(preset) for preset in found])

    async def ErasePreset(
        self, request: pb.ErasePresetRequest, context: Context
    ) -> pb.ErasePresetResponse:
        await self._store.delete(_key(request.key, request.tenant), int(request.etag or 0))
        return pb.ErasePresetResponse()


def preset_from(message: preset_pb2.Preset, tenant: str) -> StoredPreset:
    """What is to be written of a preset."""
    kind = message.WhichOneof("spec") or ""
    spec: dict[str, Any] = MessageToDict(getattr(message, kind), preserving_proto_field_name=True)
    key = PresetKey(EVERYBODY if message.shared else tenant, message.model, message.name)
    return StoredPreset(key, message.description, kind, spec)


def preset_to(preset: StoredPreset) -> preset_pb2.Preset:
    """A version that was written."""
    key = preset.key
    message = preset_pb2.Preset(
        model=key.model,
        name=key.name,
        shared=key.tenant == EVERYBODY,
        description=preset.description,
        version=key.version,
        etag=str(key.version),
        create_time=time_to(preset.create_time),
    )
    spec = message.video if preset.kind == "video" else message.image
    spec.SetInParent()
    ParseDict(dict(preset.spec), spec, ignore_unknown_fields=True)  # of a later version's
    return message


def _key(key: pb.PresetKey, tenant: str) -> PresetKey:
    return PresetKey(EVERYBODY if key.shared else tenant, key.model, key.name, key.version)
