"""`python -m gateway`: serve as told by ATELIER_* (atelier/config.py)."""

import gc

from atelier import debug
from atelier.config import GatewaySettings
from atelier.config_lines import from_environment
from atelier.telemetry import configure_logging
from gateway.app import run

GC_THRESHOLDS = 20_000, 20, 100


def main() -> None:
    settings = from_environment(GatewaySettings, "gateway")
    configure_logging("gateway", settings.log_level, settings.log_format)
    # What was imported is never looked at again, and the rest less often than Python would: the
    # collector took a tenth of what a submit cost here (docs/door.md).
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    debug.run(run(settings))


if __name__ == "__main__":
    main()
