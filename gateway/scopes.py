"""Which scope each method takes. Pure. What is not listed is refused: a new method is nobody's
until somebody wrote down here whose it is.
"""

from __future__ import annotations

from collections.abc import Mapping

EVERYBODY = ""

_BY_SERVICE: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "atelier.v1.GenerationService": {
        "generate": (
            "CreateGeneration",
            "CreateGenerations",
            "Generate",
            "CancelGeneration",
            "DeleteGeneration",
        ),
        "read": ("GetGeneration", "ListGenerations", "WatchGeneration"),
    },
    "atelier.v1.ModelService": {"read": ("GetModel", "ListModels")},
    "atelier.v1.PresetService": {
        "generate": ("CreatePreset", "UpdatePreset", "DeletePreset"),
        "read": ("GetPreset", "ListPresets"),
    },
    "atelier.v1.WebhookService": {
        "generate": (
            "CreateWebhook",
            "UpdateWebhook",
            "DeleteWebhook",
            "RotateSecret",
            "TestWebhook",
            "RedeliverWebhook",
        ),
        "read": ("GetWebhook", "ListWebhooks", "ListDeliveries"),
    },
    "atelier.v1.FleetService": {
        "admin": (
            "ListDevices",
            "ListQueues",
            "DrainDevice",
            "UndrainDevice",
            "LoadModel",
            "UnloadModel",
            "PinModel",
            "UnpinModel",
            "GetTrace",
            "ListMoments",
            "TraceGeneration",
            "WatchFleet",
        ),
    },
    "atelier.v1.AccessService": {
        "admin": ("CreateKey", "ListKeys", "RevokeKey", "RotateKey"),
    },
    "atelier.v1.TenantService": {
        "admin": ("SetTenant", "UnsetTenant", "GetTenant", "ListTenants"),
    },
    "atelier.v1.UsageService": {"read": ("GetUsage",)},
    # What balancers ask without a key, and what describes the service to whoever may read.
    "grpc.health.v1.Health": {EVERYBODY: ("Check", "Watch")},
    "grpc.reflection.v1alpha.ServerReflection": {"read": ("ServerReflectionInfo",)},
}

SCOPE_OF: Mapping[str, str] = {
    f"/{service}/{method}": scope
    for service, scopes in _BY_SERVICE.items()
    for scope, methods in scopes.items()
    for method in methods
}


def is_of_keys(method: str) -> bool:
    """Whether a method makes, tells or ends keys."""
    return method.startswith("/atelier.v1.AccessService/")


def scope_of(method: str) -> str:
    """The scope that a method takes, by its full name; EVERYBODY where it takes none.

    Raises:
        KeyError: nobody may call it, which is a fault of ours: it should not be served.
    """
    return SCOPE_OF[method]
