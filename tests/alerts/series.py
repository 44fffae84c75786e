"""Series as promtool takes them, recorded from the metrics endpoints of real processes.

A time-lapse: they are read once a second, and played as if that had been once a minute. Shares and
counts are what they were; what is an amount of time that passed is as many minutes.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
LAPSE = 60  # minutes to the second
TIMES = ("atelier_webhooks_outbox_age_seconds", "atelier_device_time_seconds_total")
READ_SECONDS = 0.5  # who does not answer within is not there

GONE = "stale"  # what Prometheus writes when a series is there no more


def asked_for() -> set[str]:
    """The metrics that the alerts rest on."""
    return set(re.findall(r"\batelier_[a-z_]+\b", RULES.read_text()))


@dataclass
class Recording:
    """Of each series a value a second; None where it was not there."""

    seconds: int = 0
    _series: dict[str, list[float | None]] = field(default_factory=dict)

    def look(self, endpoints: Mapping[str, str]) -> None:
        """Read all of them once: by job, the address of each."""
        found: dict[str, float] = {}
        for job, address in endpoints.items():
            target = f'job="atelier-{job}",instance="{job}"'
            try:
                with urllib.request.urlopen(
                    f"http://{address}/metrics", timeout=READ_SECONDS
                ) as told:
                    found |= _wanted(told.read().decode(), target)
                found[f"up{{{target}}}"] = 1.0
            except OSError:
                found[f"up{{{target}}}"] = 0.0
        for name in found.keys() | self._series.keys():
            values = self._series.setdefault(name, [None] * self.seconds)
            values.append(found.get(name))
        self.seconds += 1

    def series(self) -> dict[str, str]:
        """Each as promtool writes it."""
        return {name: notation(values) for name, values in sorted(self._series.items())}


def notation(values: list[float | None]) -> str:
    """Runs of one value are one word."""
    words = []
    before: float | None = None
    for value, run in groupby(values):
        length = len(list(run))
        if value is None:
            words += [GONE] if before is not None else ["_"]
            words += [f"_x{length - 1}"] if length > 1 else []
        else:
            words.append(f"{value:g}x{length - 1}" if length > 1 else f"{value:g}")
        before = value
    return " ".join(words)


def _wanted(text: str, target: str) -> dict[str, float]:
    names = asked_for()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in names:
                labels = [target, *(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))]
                value = sample.value * LAPSE if sample.name in TIMES else sample.value
                found[f"{sample.name}{{{','.join(labels)}}}"] = value
    return found
