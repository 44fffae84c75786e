"""`python -m agent`: reads ATELIER_* from the environment and serves until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import structlog

from agent.app import CannotStartError, serve
from atelier import debug
from atelier.config import AgentSettings
from atelier.config_lines import from_environment
from atelier.metrics import MetricsError, exported
from atelier.telemetry import configure_logging

log = structlog.get_logger()

THREAD_GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.05


async def _run(settings: AgentSettings) -> int:
    """The exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    status = 1
    try:
        with exported(
            "agent", settings.agent_metrics_listen, "ATELIER_AGENT_METRICS_LISTEN"
        ) as meter:
            await serve(settings, stop, meter=meter)
        status = 0
    except (CannotStartError, MetricsError) as error:
        log.error("agent cannot start", reason=str(error))
    except Exception:
        log.exception("agent broke")
    try:
        async with asyncio.timeout(THREAD_GRACE_SECONDS):
            await _threads_end()
    except TimeoutError:
        log.warning("threads left behind: uploads, or calls of a driver")
        os._exit(status)
    return status


async def _threads_end() -> None:
    """Wait for threads as Python does when it exits, where it cannot be told to stop waiting.

    A store that hangs would hold us for a minute. The attempts of its uploads are queued again
    anyhow.
    """
    await asyncio.get_running_loop().shutdown_default_executor()
    while _threads():  # noqa: ASYNC110 - a thread tells nobody that it ends
        await asyncio.sleep(_POLL_SECONDS)


def _threads() -> list[threading.Thread]:
    """Those that Python waits for."""
    main = threading.main_thread()
    return [t for t in threading.enumerate() if not t.daemon and t is not main]


def main() -> None:
    """Run the agent."""
    settings = from_environment(AgentSettings, "agent")
    configure_logging("agent", settings.log_level, settings.log_format)
    sys.exit(debug.run(_run(settings)))


if __name__ == "__main__":
    main()
