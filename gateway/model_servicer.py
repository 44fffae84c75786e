"""ModelService: the catalogue, as the cards tell it."""

from __future__ import annotations

from typing import TypeAlias

import grpc

from atelier.catalog import Catalog, ModelCard
from atelier.errors import NotFoundError
from atelier.suggest import known_names
from atelier.v1 import model_pb2 as pb
from atelier.v1 import model_pb2_grpc as pb_grpc
from gateway import offers
from gateway.vocabulary import parameters_of

Context: TypeAlias = grpc.aio.ServicerContext


class ModelServicer(pb_grpc.ModelServiceServicer):
    """Reads cards; they do not change while the gateway runs."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[_model(c) for c in self._catalog.cards.values()])

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        card = self._catalog.get(request.name)
        if card is None:
            known = known_names(request.name, self._catalog.cards)
            raise NotFoundError(f"no model of that name is served; {known}")
        return pb.GetModelResponse(model=_model(card))


def _model(card: ModelCard) -> pb.Model:
    limits = [*card.limits.values()]
    if offers.takes_images(card):
        limits.append(offers.strength_limit(card))
    return pb.Model(
        name=card.name,
        description=card.description,
        kind=pb.ModelKind.Value(f"MODEL_KIND_{card.kind.upper()}"),
        family=card.family,
        version=card.version,
        limits=[
            pb.ParameterLimit(
                field=limit.field,
                minimum=limit.minimum,
                maximum=limit.maximum,
                multiple_of=limit.multiple_of,
                default_value=limit.default,
                unit=limit.unit,
            )
            for limit in limits
        ],
        samplers=card.samplers,
        default_sampler=card.default_sampler,
        presets=[
            pb.ModelPreset(name=preset.name, values=preset.values, sampler=preset.sampler)
            for preset in card.presets.values()
        ],
        resident_bytes=card.resident_bytes,
        takes_images=offers.takes_images(card),
        takes_first_frame=offers.takes_first_frame(card),
        has_previews=offers.has_previews(card),
        has_safety_checker=offers.has_safety_checker(card),
        parameters=parameters_of(card),
    )
