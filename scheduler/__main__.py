"""`python -m scheduler`: serve as told by ATELIER_* (atelier/config.py)."""

import sys

import structlog

from atelier import debug
from atelier.config import SchedulerSettings
from atelier.config_lines import from_environment
from atelier.telemetry import configure_logging
from scheduler.app import run
from scheduler.leadership import LeadershipLostError


def main() -> None:
    settings = from_environment(SchedulerSettings, "scheduler")
    configure_logging("scheduler", settings.log_level, settings.log_format)
    try:
        debug.run(run(settings))
    except RuntimeError as error:
        if not isinstance(error.__cause__, LeadershipLostError):
            raise
        structlog.get_logger().error("steps down", reason=str(error.__cause__))
        sys.exit(1)  # whoever keeps it starts it again, to stand by


if __name__ == "__main__":
    main()
