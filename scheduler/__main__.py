"""`python -m scheduler`: serve as told by ATELIER_* (atelier/config.py)."""

import asyncio

from atelier.config import SchedulerSettings
from atelier.telemetry import configure_logging
from scheduler.app import run


def main() -> None:
    settings = SchedulerSettings()
    configure_logging("scheduler", settings.log_level)
    asyncio.run(run(settings))


if __name__ == "__main__":
    main()
