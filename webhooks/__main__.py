"""`python -m webhooks`: deliver as told by ATELIER_* (atelier/config.py)."""

from atelier import debug
from atelier.config import WebhooksSettings
from atelier.config_lines import from_environment
from atelier.telemetry import configure_logging
from webhooks.app import run


def main() -> None:
    settings = from_environment(WebhooksSettings, "webhooks")
    configure_logging("webhooks", settings.log_level, settings.log_format)
    debug.run(run(settings))


if __name__ == "__main__":
    main()
