"""`python -m gateway`: serve as told by ATELIER_* (atelier/config.py)."""

import asyncio

from atelier.config import GatewaySettings
from atelier.telemetry import configure_logging
from gateway.app import run


def main() -> None:
    settings = GatewaySettings()
    configure_logging("gateway", settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
