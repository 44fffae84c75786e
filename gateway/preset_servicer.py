"""PresetService: the public calls, one method each; and the presets that requests name."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable
from typing import TypeAlias

import grpc

from atelier.catalog import Catalog
from atelier.errors import NotFoundError, PermissionDeniedError, Violation, refuse
from atelier.v1 import generation_pb2, preset_store_pb2
from atelier.v1 import preset_pb2 as pb
from atelier.v1 import preset_pb2_grpc as pb_grpc
from gateway.identity import caller
from gateway.presets import Found, chosen, key_violations, keys_of, preset_violations
from gateway.requests import DEFAULT_PAGE, MAX_PAGE, fits_page
from gateway.scheduler_client import SchedulerClient

Context: TypeAlias = grpc.aio.ServicerContext

NAMES_TOLD = 200  # to look for what a caller may have meant


class Presets:
    """Those that the scheduler keeps, as requests name them. Nothing is cached: what is written
    holds from the next request on, whichever gateway gets it."""

    def __init__(self, scheduler: SchedulerClient) -> None:
        self._scheduler = scheduler

    async def find(
        self,
        requests: Iterable[generation_pb2.CreateGenerationRequest],
        tenant: str,
        catalog: Catalog,
        context: Context,
    ) -> Found:
        """What there is of the presets that requests name; nothing is asked where none does."""
        wanted = {(one.model, one.preset) for one in requests if one.preset}
        wanted = {(model, preset) for model, preset in wanted if catalog.get(model)}
        if not wanted:
            return Found({}, {})
        keys = [key for model, preset in sorted(wanted) for key in keys_of(model, preset)]
        asked = preset_store_pb2.ReadPresetsRequest(tenant=tenant, keys=keys)
        stub = self._scheduler.presets
        answer: preset_store_pb2.ReadPresetsResponse = await self._scheduler.ask(
            stub.ReadPresets, asked, context
        )
        found = chosen(wanted, answer.found)
        lost = {
            model
            for model, preset in wanted - found.keys()
            if (card := catalog.get(model)) and preset not in card.presets
        }
        return Found(found, {model: await self._names(model, tenant, context) for model in lost})

    async def _names(self, model: str, tenant: str, context: Context) -> tuple[str, ...]:
        asked = preset_store_pb2.ScanPresetsRequest(tenant=tenant, model=model, limit=NAMES_TOLD)
        answer: preset_store_pb2.ScanPresetsResponse = await self._scheduler.ask(
            self._scheduler.presets.ScanPresets, asked, context
        )
        return tuple(preset.name for preset in answer.presets)


class PresetServicer(pb_grpc.PresetServiceServicer):
    """Checks, and hands on."""

    def __init__(self, scheduler: SchedulerClient, catalog: Catalog) -> None:
        self._scheduler = scheduler
        self._store = scheduler.presets
        self._catalog = catalog

    async def CreatePreset(
        self, request: pb.CreatePresetRequest, context: Context
    ) -> pb.CreatePresetResponse:
        bad = preset_violations(request.preset, self._catalog, caller().tenant)
        if request.preset.etag:
            bad.append(Violation("preset.etag", "a new one follows none: leave it empty"))
        return pb.CreatePresetResponse(preset=await self._write(request.preset, bad, context))

    async def GetPreset(
        self, request: pb.GetPresetRequest, context: Context
    ) -> pb.GetPresetResponse:
        bad = key_violations(request.model, request.name)
        if request.version < 0:
            bad.append(Violation("version", "must be 1 or more, or 0 for the present one"))
        refuse(bad)
        key = preset_store_pb2.PresetKey(
            model=request.model, name=request.name, shared=request.shared, version=request.version
        )
        asked = preset_store_pb2.ReadPresetsRequest(tenant=caller().tenant, keys=[key])
        answer: preset_store_pb2.ReadPresetsResponse = await self._scheduler.ask(
            self._store.ReadPresets, asked, context
        )
        if not answer.found:
            version = f"version {request.version} of " if request.version else ""
            raise NotFoundError(
                f"there is no {version}preset {request.name} for {request.model}: ListPresets"
                " tells yours and the shared ones"
            )
        return pb.GetPresetResponse(preset=answer.found[0].preset)

    async def ListPresets(
        self, request: pb.ListPresetsRequest, context: Context
    ) -> pb.ListPresetsResponse:
        size, after = page_of(request)
        asked = preset_store_pb2.ScanPresetsRequest(
            tenant=caller().tenant, model=request.model, after=after, limit=size + 1
        )
        answer: preset_store_pb2.ScanPresetsResponse = await self._scheduler.ask(
            self._store.ScanPresets, asked, context
        )
        found = answer.presets
        page = found[: min(size, fits_page(preset.ByteSize() for preset in found))]
        token = page_token(request.model, page[-1]) if len(found) > len(page) else ""
        return pb.ListPresetsResponse(presets=page, next_page_token=token)

    async def UpdatePreset(
        self, request: pb.UpdatePresetRequest, context: Context
    ) -> pb.UpdatePresetResponse:
        bad = preset_violations(request.preset, self._catalog, caller().tenant)
        if not is_etag(request.preset.etag):
            bad.append(Violation("preset.etag", "must be what GetPreset gave: read it first"))
        return pb.UpdatePresetResponse(preset=await self._write(request.preset, bad, context))

    async def DeletePreset(
        self, request: pb.DeletePresetRequest, context: Context
    ) -> pb.DeletePresetResponse:
        bad = key_violations(request.model, request.name)
        if request.etag and not is_etag(request.etag):
            bad.append(Violation("etag", "must be what GetPreset gave, or empty"))
        refuse(bad)
        _may_write(shared=request.shared)
        asked = preset_store_pb2.ErasePresetRequest(
            tenant=caller().tenant,
            key=preset_store_pb2.PresetKey(
                model=request.model, name=request.name, shared=request.shared
            ),
            etag=request.etag,
        )
        await self._scheduler.ask(self._store.ErasePreset, asked, context)
        return pb.DeletePresetResponse()

    async def _write(self, preset: pb.Preset, bad: list[Violation], context: Context) -> pb.Preset:
        refuse(bad)
        _may_write(shared=preset.shared)
        asked = preset_store_pb2.WritePresetRequest(tenant=caller().tenant, preset=preset)
        answer: preset_store_pb2.WritePresetResponse = await self._scheduler.ask(
            self._store.WritePreset, asked, context
        )
        return answer.preset


def _may_write(*, shared: bool) -> None:
    if shared and not caller().is_admin:
        raise PermissionDeniedError("admin", "to write a shared preset")


def is_etag(text: str) -> bool:
    """Whether this can be one of ours."""
    return text.isascii() and text.isdigit() and 0 < len(text) < 10 and text[0] != "0"


def page_of(request: pb.ListPresetsRequest) -> tuple[int, preset_store_pb2.PresetKey | None]:
    """Page size, and the preset behind which the page begins.

    Raises:
        InvalidArgumentError: a bad size, model or token, or a token of another query.
    """
    bad: list[Violation] = []
    if not 0 <= request.page_size <= MAX_PAGE:
        bad.append(Violation("page_size", f"must be 0 to {MAX_PAGE}; got {request.page_size}"))
    if "\0" in request.model:
        bad.append(Violation("model", "must not contain the character NUL"))
    after = None
    if request.page_token:
        try:
            token = json.loads(base64.urlsafe_b64decode(request.page_token.encode()))
            query, model, name, shared = token
            if query != request.model:
                raise ValueError("of another query")
            if "\0" in model + name:
                raise ValueError("none of ours")
            after = preset_store_pb2.PresetKey(model=model, name=name, shared=shared)
        except (binascii.Error, ValueError, TypeError):
            text = "is not one that ListPresets gave for this model"
            bad.append(Violation("page_token", text))
    refuse(bad)
    return request.page_size or DEFAULT_PAGE, after


def page_token(model: str, last: pb.Preset) -> str:
    """The token of the page behind `last`."""
    token = json.dumps([model, last.model, last.name, last.shared])
    return base64.urlsafe_b64encode(token.encode()).decode()
