"""`python -m gateway`: serve as told by ATELIER_* (atelier/config.py)."""

from atelier import debug
from atelier.config import GatewaySettings
from atelier.config_lines import from_environment
from atelier.pauses import set_aside
from atelier.telemetry import configure_logging
from gateway.app import run


def main() -> None:
    settings = from_environment(GatewaySettings, "gateway")
    configure_logging("gateway", settings.log_level, settings.log_format)
    set_aside()  # what was imported: the collector took a tenth of a submit (docs/door.md)
    debug.run(run(settings))


if __name__ == "__main__":
    main()
