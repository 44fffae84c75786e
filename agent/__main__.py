"""`python -m agent`: reads ATELIER_* from the environment and serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
from pydantic import ValidationError

from agent.app import serve
from atelier.config import AgentSettings
from atelier.telemetry import configure_logging

log = structlog.get_logger()

UPLOAD_GRACE_SECONDS = 3.0


async def _run(settings: AgentSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop)
    # Uploads are threads, which cannot be cancelled, and Python waits for them when it exits: a
    # store that hangs would hold us for a minute. Their attempts are queued again anyhow.
    try:
        async with asyncio.timeout(UPLOAD_GRACE_SECONDS):
            await loop.shutdown_default_executor()
    except TimeoutError:
        log.warning("uploads left behind")
        os._exit(0)


def main() -> None:
    """Run the agent."""
    try:
        settings = AgentSettings()  # from the environment
    except ValidationError as error:
        # Never the values: keys are among them.
        for fault in error.errors(include_input=False, include_url=False):
            name = ".".join(str(part) for part in fault["loc"])
            sys.stderr.write(f"agent: ATELIER_{name.upper()}: {fault['msg']}\n")
        sys.exit(2)
    configure_logging("agent", settings.log_level)
    try:
        asyncio.run(_run(settings))
    except ValueError as error:
        log.error("agent cannot start", reason=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
