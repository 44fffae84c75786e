"""The devices, as their agents come and go.

A line that breaks leaves its devices in place but out of use, for `agent_grace_seconds`: the agent
goes on working and comes back with the attempts it runs, which are adopted. Only when it does not
come back are its attempts given to others (sysmon).

A device whose facts do not add up is in doubt: the core has it empty and quarantined, with the
reason, until a report makes sense again. One that is in trouble is quarantined by its health
(health.py, care.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from atelier.v1 import agent_pb2 as pb
from scheduler.background import Background
from scheduler.facts import misfit, rows_granted
from scheduler.health import Health
from scheduler.lines import Line, Lines
from scheduler.live import Live
from scheduler.outcomes import Outcomes

log = structlog.get_logger()

AWAY = "its agent is not connected"
WARM_SECONDS = 300.0  # for a model to come into its node's memory


@dataclass
class Doubt:
    """Why a device is not believed, and the attempts that it said hold it."""

    reason: str
    held: frozenset[str]


@dataclass(frozen=True)
class Host:
    """A node's memory for files of models: what it may hold, and what it holds, as measured."""

    capacity_bytes: int
    models: frozenset[str]
    resident_bytes: int = 0


class Fleet:
    """What is known of each device beside the core; nothing of one that was given up.

    `lost_since` has those whose agent is away, and since when; `doubts` those not believed.
    """

    def __init__(
        self,
        live: Live,
        lines: Lines,
        outcomes: Outcomes,
        background: Background,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.lost_since: dict[str, float] = {}
        self.samples: dict[str, pb.DeviceSample] = {}
        self.hardware: dict[str, str] = {}
        self.reported: dict[str, frozenset[str]] = {}  # what was resident, by the last report
        self.doubts: dict[str, Doubt] = {}
        self.healths: dict[str, Health] = {}
        self.hosts: dict[str, Host] = {}  # by node
        self._awaited: dict[str, dict[str, float]] = {}  # by node: models to come, since when
        self._live = live
        self._lines = lines
        self._outcomes = outcomes
        self._background = background
        self._clock = clock

    def join(self, hello: pb.Hello) -> tuple[Line, list[pb.Attempt]]:
        """Take up an agent: its devices as they are, its attempts where they are still theirs.

        Returns:
            Its line, and the attempts that it should stop and forget.
        """
        facts_of = {facts.id: facts for facts in hello.devices}
        line, no_more = self._lines.open(hello.node, tuple(facts_of))
        for device_id in no_more:
            self.give_up(device_id)

        revoked, kept, holding = [], set[str](), set[str]()
        for attempt in hello.attempts:
            generation = self._live.holds(attempt.generation_id, attempt.lease_token)
            if generation is None or generation.device not in facts_of:
                revoked.append(attempt)
                continue
            kept.add(generation.id)
            self._live.lost.discard((generation.id, attempt.lease_token))
            if generation.id in self._live.preempting:  # the command may be lost, or on its way
                self._lines.preempt(generation)
            elif not attempt.released:
                holding.add(generation.id)
            if generation.id in self._live.cancelling:  # asked for while the agent was away
                self._lines.cancel(generation)

        host = Host(hello.host_memory_bytes, frozenset(hello.host_models))
        self._host_up(hello.node, host)
        for facts in facts_of.values():
            self.healths.setdefault(facts.id, Health()).reconnected(self._clock())
            held = {i for i in holding if self._live.running[i].device == facts.id}
            self.lost_since.pop(facts.id, None)
            self._take(facts.id, hello.node, facts.capacity_bytes, facts.resident_models, held)
            self.hardware[facts.id] = facts.hardware
        self._forget_hosts()
        for generation in list(self._live.running.values()):
            here = generation.device in facts_of or generation.device in no_more
            if here and generation.id not in kept and generation.lease_token is not None:
                self._background.spawn(self._outcomes.lost(generation.id, generation.lease_token))
        log.info("agent joined", node=hello.node, devices=line.devices, adopted=len(kept),
                 revoked=len(revoked))  # fmt: skip
        self._live.wake.set()
        return line, revoked

    def hosted(self, node: str, host: Host) -> None:
        """A report of what a node's memory holds; a read that was ordered may be over by it.

        What the core takes to be there, or to be read, and never comes (a file is gone, a budget
        was counted differently) it takes so for WARM_SECONDS; then it hears what is there instead.
        """
        self.hosts[node] = host
        if (tier := self._live.sched.books.hosts.get(node)) is None:
            return
        if tier.warming in host.models:
            self._live.sched.warmed(node, tier.warming)
        now, before = self._clock(), self._awaited.get(node, {})
        missing = {*tier.held, tier.warming} - {"", *host.models}
        awaited = self._awaited[node] = {model: before.get(model, now) for model in missing}
        late = sorted(model for model, since in awaited.items() if now - since > WARM_SECONDS)
        if late:
            log.warning("not in the node's memory", node=node, models=late)
            self._host_up(node, host)

    def _host_up(self, node: str, host: Host) -> None:
        """Give the core a node's memory as it is told."""
        self.hosts[node] = host
        self._awaited.pop(node, None)
        if host.capacity_bytes > 0:
            self._live.sched.host_up(node, host.capacity_bytes, host.models)
        else:
            self._live.sched.host_down(node)

    def _forget_hosts(self) -> None:
        """Nodes without a device are gone, and their memory with them."""
        nodes = {device.node for device in self._live.sched.devices.values()}
        for node in self.hosts.keys() - nodes:
            del self.hosts[node]
            self._awaited.pop(node, None)
            self._live.sched.host_down(node)

    def leave(self, line: Line) -> None:
        """Its line broke. Devices that another line has named since are that one's."""
        lost = self._lines.close(line)
        for device_id in lost:
            self.lost_since[device_id] = self._clock()
            if device_id in self._live.sched.devices:
                self._live.did(self._live.sched.quarantine(device_id, AWAY))
                self._live.journal.quarantined(device_id, AWAY)
        log.warning("agent left", node=line.node, devices=lost)

    def give_up(self, device_id: str) -> None:
        """It is of the fleet no more."""
        log.warning("device given up", device=device_id)
        self.lost_since.pop(device_id, None)
        self.samples.pop(device_id, None)
        self.hardware.pop(device_id, None)
        self.reported.pop(device_id, None)
        self.doubts.pop(device_id, None)
        self.healths.pop(device_id, None)
        if device_id in self._live.sched.devices:
            self._live.device_down(device_id)
        self._forget_hosts()

    def settle(self, device_id: str) -> None:
        """Quarantine a device, or not, by what is known of it now."""
        health, doubt = self.healths.get(device_id), self.doubts.get(device_id)
        reason = doubt.reason if doubt else health.reason if health else ""
        if device_id in self.lost_since:
            reason = AWAY
        if reason != self._live.sched.devices[device_id].quarantined:
            log.warning("device", device=device_id, quarantined=reason)
            self._live.journal.quarantined(device_id, reason)
            self._live.did(self._live.sched.quarantine(device_id, reason))

    def distrust(self, device_id: str, reason: str) -> None:
        """Take what the core has of it back, and wait for a report that makes sense."""
        device = self._live.sched.devices[device_id]
        held = {ticket for ticket in device.running if ticket in self._live.running}
        self._take(device_id, device.node, int(device.declared), (), held, reason)

    def reconsider(self, device_id: str, resident: Iterable[str]) -> None:
        """A device in doubt reported: believe it again if that adds up. If not, and nothing runs
        there, it is emptied: two agents of one name may have filled it, or it was larger once."""
        device, resident = self._live.sched.devices[device_id], list(resident)
        held = {i for i in self.doubts[device_id].held if i in self._live.running}
        self._take(device_id, device.node, int(device.declared), resident, held)
        if device_id in self.doubts and not held:
            for model in resident:
                self._lines.unload(device_id, model)

    def released(self, generation_id: str) -> None:
        """An attempt holds its device no more."""
        self._live.released(generation_id)
        for doubt in self.doubts.values():
            doubt.held -= {generation_id}

    def _take(
        self,
        device_id: str,
        node: str,
        capacity_bytes: int,
        resident: Iterable[str],
        held: Iterable[str],
        reason: str = "",
    ) -> None:
        """Give the core a device as it is told; empty and quarantined where that cannot be."""
        sched, now = self._live.sched, self._clock()
        resident, held = list(resident), frozenset(held)
        tickets = [self._live.ticket(self._live.running[i]) for i in sorted(held)]
        for ticket in tickets:
            ticket.rows = rows_granted(ticket, capacity_bytes, sched.models)
        wrong = reason or misfit(capacity_bytes, resident, tickets, sched.models)
        if device_id in sched.devices:
            self._live.device_down(device_id)
        there = [] if wrong else resident
        self._live.did(
            sched.device_up(device_id, node, max(0, capacity_bytes), now, resident=there)
        )
        self.reported.pop(device_id, None)
        before = self.doubts.pop(device_id, None)
        if wrong:
            self.doubts[device_id] = Doubt(wrong, held)
            self._live.did(sched.quarantine(device_id, wrong))
            self._live.journal.quarantined(device_id, wrong)
            if before is None or before.reason != wrong:
                log.error("device not believed", device=device_id, reason=wrong)
        else:
            self.settle(device_id)
            for ticket in tickets:
                sched.adopt(ticket, device_id, now)
            if before:
                log.warning("device believed again", device=device_id)
        self._live.wake.set()
