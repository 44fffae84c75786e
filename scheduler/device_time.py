"""Device-seconds by generation. Pure.

While several are on a device its time is divided among them by their rows, so that all shares
together are the time for which anybody was there. It counts from the claim of an attempt until its
agent gives the device back (the upload after that is nobody's device-second). So text, steps and
decoding are in it, and no load of a model: nothing is bound to what is not there.
"""

from __future__ import annotations

from collections import defaultdict


class DeviceTime:
    """`now` is seconds on one clock that never goes back."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, int]] = defaultdict(dict)  # by device, by generation
        self._since: dict[str, float] = {}  # by device: up to when its time is divided
        self._used: dict[str, float] = {}  # by generation
        self._where: dict[str, tuple[str, int]] = {}  # its device, and how many it has

    def joined(
        self, generation_id: str, device: str, rows: int, now: float, *, devices: int = 1
    ) -> None:
        """An attempt begins. devices: of its gang, which it has to itself."""
        self.forget(generation_id, now)
        self._divide(device, now)
        self._rows[device][generation_id] = max(1, rows)
        self._where[generation_id] = device, devices
        self._used[generation_id] = 0.0

    def left(self, generation_id: str, now: float) -> None:
        """It needs its device no more; what it has used is still known."""
        device, _ = self._where.get(generation_id, ("", 0))
        if not device:
            return
        self._divide(device, now)
        del self._where[generation_id]
        del self._rows[device][generation_id]
        if not self._rows[device]:
            del self._rows[device], self._since[device]

    def used(self, generation_id: str, now: float) -> float:
        """Device-seconds of its attempt so far; 0 where nothing is known of one."""
        if generation_id in self._where:
            self._divide(self._where[generation_id][0], now)
        return self._used.get(generation_id, 0.0)

    def forget(self, generation_id: str, now: float) -> None:
        """Its attempt is over, and told."""
        self.left(generation_id, now)
        self._used.pop(generation_id, None)

    def __len__(self) -> int:
        return len(self._used)

    def _divide(self, device: str, now: float) -> None:
        rows = self._rows[device]
        passed = max(0.0, now - self._since.get(device, now))
        self._since[device] = now
        all_rows = sum(rows.values())
        for generation_id, own in rows.items():
            devices = self._where[generation_id][1]
            self._used[generation_id] += passed * devices * own / all_rows
