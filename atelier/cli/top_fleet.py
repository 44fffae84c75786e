"""What `atelier top` knows of the fleet: WatchFleet's messages, folded together. Asks nobody."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from atelier.v1 import fleet_pb2 as pb

NEWS_KEPT = 500
MINUTE_SECONDS = 60.0

SORTS: dict[str, Callable[[pb.Device], object]] = {
    "id": lambda device: device.id,
    "trouble": lambda device: (device.state == pb.DEVICE_STATE_READY, device.id),
    "memory": lambda device: (-device.reserved_bytes / max(1, device.capacity_bytes), device.id),
    "running": lambda device: (-sum(one.rows for one in device.running), device.id),
    "waiting": lambda device: (-device.waiting_generations, device.id),
}


@dataclass
class Fleet:
    """As it was last told. `note`: what the reader should know of the line, if anything."""

    devices: dict[str, pb.Device] = field(default_factory=dict)
    queues: Sequence[pb.Queue] = ()
    news: deque[pb.Decision] = field(default_factory=lambda: deque(maxlen=NEWS_KEPT))
    epoch: int = 0
    last_sequence: int = 0
    missed: int = 0
    note: str = "connecting"

    def take(self, answer: pb.WatchFleetResponse) -> None:
        """Another message of the stream."""
        self.note = ""
        match answer.WhichOneof("news"):
            case "snapshot":
                snapshot = answer.snapshot
                if self.epoch and snapshot.epoch != self.epoch:
                    self.news.clear()  # another scheduler's, which counts from 1
                    self.missed = 0
                self.epoch, self.last_sequence = snapshot.epoch, snapshot.last_sequence
                self.devices = {device.id: device for device in snapshot.devices}
                self.queues = list(snapshot.queues)
            case "change":
                for device in answer.change.devices:
                    self.devices[device.id] = device
                for device_id in answer.change.gone_device_ids:
                    self.devices.pop(device_id, None)
                self.queues = list(answer.change.queues)
            case "decisions":
                told = self.news[-1].sequence if self.news else 0
                self.news.extend(d for d in answer.decisions.decisions if d.sequence > told)
            case "gap":
                self.missed += answer.gap.missed_decisions

    def sorted(self, by: str, *, backwards: bool = False) -> list[pb.Device]:
        """The devices in one of the orders of SORTS."""
        return sorted(self.devices.values(), key=SORTS[by], reverse=backwards)  # type: ignore[arg-type]

    def lately(self, now: float) -> Counter[str]:
        """What was decided in the last minute; `now` in seconds since 1970.

        A load that displaces models counts as their evictions, too.
        """
        counts: Counter[str] = Counter()
        for decision in reversed(self.news):
            if now - decision.time.seconds > MINUTE_SECONDS:
                break
            kind = pb.DecisionKind.Name(decision.kind).removeprefix("DECISION_KIND_").lower()
            counts[kind] += 1
            counts["unload"] += len(decision.evicted_models)
        return counts

    @property
    def running(self) -> int:
        return sum(len(device.running) for device in self.devices.values())

    @property
    def waiting(self) -> int:
        return sum(queue.depth for queue in self.queues)
