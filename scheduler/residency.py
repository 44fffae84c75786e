"""Which models are where: loads on demand, eviction by worth, prefetch. Pure.

A load displaces the residents that are worth least for each byte, and happens only if what it
gains over the next HORIZON seconds is more than what it displaces. All worths are in one unit
(demand.py).
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING

from scheduler.decisions import Load, Unload
from scheduler.demand import Demand
from scheduler.device import Device, shape_of
from scheduler.runqueue import WEIGHTS, Late, Ticket

if TYPE_CHECKING:
    from scheduler.sched import Sched

HORIZON = 40.0  # seconds over which a load must pay
KAPPA = 1.5  # a further replica only where the wait exceeds so many loads
PREFETCH_GAIN = 1.5
PHI = 0.3  # weight of a device's pressure in the choice of where to load
PROTECT_VALUE, PROTECT_COUNT = 0.03, 0.01  # queued work protects its replica
MIN_RESIDENCE = 2.0  # loads: a replica with queued work is safe for so long
FORCE_LATE = 30.0  # seconds: then late work has its model loaded, whatever the cost
LAST_CHANCE = 1.3, 5.0  # factor on the load, and seconds of margin
MOST_WANTS, FEW_WANTS = 48, 8  # models for which a place is looked for in one go
PATIENCE = 30.0  # seconds, and four loads: then a device drains for a model that found no place
DISMISSED = 300.0  # seconds for which an unload by order holds against prefetch
LOOKED_AT = 16  # queued tickets of a model
LOAD_BACKOFF, LONGEST_BACKOFF = 2.0, 60.0  # seconds after a failed load; doubles
MAX_LOAD_FAILURES = 3  # in a row, and on no device: then what waits for the model fails


class OrderRefusedError(Exception):
    """An operator's order that cannot be carried out now."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason`: one upper-case word for programs; `message`: what is in the way, for people."""
        super().__init__(message)
        self.reason = reason
        self.message = message


class Residency:
    """Replicas, loads under way, and what they are worth. Part of the core."""

    def __init__(self, sched: Sched) -> None:
        self.models = sched.models
        self.demand = Demand()
        self.replicas: dict[str, list[Device]] = defaultdict(list)
        self.loading: dict[str, list[Device]] = defaultdict(list)
        self._failures: dict[str, int] = defaultdict(int)  # loads in a row, by model
        self._dismissed: dict[str, float] = {}  # by order; not prefetched until then
        self._turn = 0
        self._sched = sched

    def load_seconds(self, model: str) -> float:
        return self.models[model].load

    def ready_at(self, model: str, now: float) -> float:
        """When a model without replicas could run at the earliest."""
        own = now + self.load_seconds(model)
        return min([own, *(max(now, d.load_ends) for d in self.loading[model])])

    # Events.

    def loaded(self, device: Device, model: str, now: float) -> None:
        if device.loading == model:
            device.loading = ""
            self.loading[model].remove(device)
            self._failures.pop(model, None)
            device.load_not_before.pop(model, None)
        if model not in device.resident and device.usable:
            self.replicas[model].append(device)
        device.resident[model] = device.loaded_at[model] = now

    def load_failed(self, device: Device, model: str, now: float) -> list[Ticket]:
        """Back off; after too many failures in a row, all that waits for the model is given up."""
        device.loading = ""
        self.loading[model].remove(device)
        self._failures[model] += 1
        pause = LOAD_BACKOFF * 2 ** min(self._failures[model] - 1, 5)
        device.load_not_before[model] = now + min(pause, LONGEST_BACKOFF)
        if self._failures[model] < MAX_LOAD_FAILURES or self.replicas[model]:
            return []
        return [t for queue in self._sched.queues.by_model[model].values() for t in queue]

    def unloaded(self, device: Device, model: str) -> None:
        if device.unloading == model:
            device.unloading = ""
        if model in device.resident:
            del device.resident[model]
            device.loaded_at.pop(model, None)
            if device.usable:
                self.replicas[model].remove(device)

    def unload_refused(self, device: Device, model: str, now: float) -> None:
        if device.unloading == model:
            device.unloading = ""
        device.unload_not_before[model] = now + LOAD_BACKOFF
        if model not in device.resident:
            self.loaded(device, model, now)

    def usable_changed(self, device: Device) -> None:
        """Whether what is on the device counts among the replicas."""
        for model in device.resident:
            if device.usable:
                self.replicas[model].append(device)
            else:
                self.replicas[model].remove(device)

    def lost(self, device: Device) -> None:
        """The device is gone, with all that was on it."""
        for places in (self.replicas, self.loading):
            for devices in places.values():
                if device in devices:
                    devices.remove(device)

    # Decisions.

    def tick(self, now: float) -> None:
        for device in self._sched.devices.values():
            device.yield_to = None  # wants say it again where they still wait
            if device.pinned:
                self.restore_pins(device, now)
            if device.overdrawn:
                self._settle_overdraft(device, now)
        self.wants_of_the_hungry(now)
        self._prefetch(now)

    def idle(self, device: Device, now: float) -> None:
        """A device has nothing that it can run: room for what waits, or loads."""
        if len(self._sched.queues) and not self._make_room(device, now):
            self.wants_of_the_hungry(now)

    def _make_room(self, device: Device, now: float) -> bool:
        """Unload an idle neighbour where a model is here, but no room for its activations."""
        sched = self._sched
        for model in device.resident:
            if not sched.queues.count[model]:
                continue
            for queue in list(sched.queues.by_model[model].values()):
                head = sched.queues.head(queue, now)
                if head is None or sched.fits(device, head) or not self._holds(device, head):
                    continue
                if self.evict_neighbour(device, model, now):
                    return True
        return False

    def evict_neighbour(self, device: Device, model: str, now: float) -> bool:
        """Unload the idle resident beside `model` that is worth least; False if there is none."""
        if device.loading or device.unloading:
            return False
        in_use = {model, *(t.model for t in device.running.values())}
        if device.gang is not None:
            in_use.add(device.gang.model)
        others = [
            (self._value(m, now), m)
            for m in device.resident
            if m not in in_use
            and m not in device.pinned
            and device.unload_not_before.get(m, 0.0) <= now
        ]
        if not others:
            return False
        _, victim = min(others)
        self.unloaded(device, victim)
        device.unloading = victim
        self._sched.out.append(Unload(victim, device.id, f"its place is needed to run {model}"))
        return True

    # Operators' orders.

    def order_load(self, model: str, device: Device | None, now: float) -> None:
        """Load it, whatever it displaces. Raises OrderRefusedError."""
        costs = self.models[model]
        if costs.gang > 1:
            raise OrderRefusedError("GANG_MODEL", f"{model} is split over {costs.gang} devices; "
                                    "it is loaded when a generation asks for it")  # fmt: skip
        if device is None:
            place = self._pick(model, len(self.replicas[model]) + len(self.loading[model]), now)
            if place is None:
                raise OrderRefusedError("NO_ROOM", f"no device has room for {model} now")
            _, device, victims = place
        elif model in device.resident or device.loading == model:
            return
        else:
            self._free_to_change(device)
            found = self._victims(model, device, now)
            if found is None:
                raise OrderRefusedError("NO_ROOM", f"{model} needs {costs.weights:.0f} bytes and "
                    f"{costs.activation:.0f} to run, on {device.id} {device.capacity:.0f} are "
                    "usable, and what is in use or pinned there stays")  # fmt: skip
            victims = found[1]
        device.load_not_before.pop(model, None)
        self._load(model, device, victims, now, "ordered")

    def order_unload(self, model: str, device: Device, now: float) -> None:
        """Unload it; it is not prefetched again for a while. Raises OrderRefusedError."""
        if model not in device.resident:
            return
        self._free_to_change(device)
        if model in device.pinned:
            raise OrderRefusedError("MODEL_PINNED", f"{model} is pinned on {device.id}; unpin it")
        gang = device.gang is not None and device.gang.model == model
        if gang or any(t.model == model for t in device.running.values()):
            raise OrderRefusedError("MODEL_IN_USE", f"{model} runs on {device.id}; drain it first")
        self.unloaded(device, model)
        device.unloading = model
        self._dismissed[model] = now + DISMISSED
        self._sched.out.append(Unload(model, device.id, "ordered"))

    def check_pin(self, model: str, device: Device) -> None:
        """Raise OrderRefusedError where it could not stay beside what is pinned there."""
        costs = [self.models[m] for m in {model, *device.pinned}]
        if any(c.gang > 1 for c in costs):
            raise OrderRefusedError("GANG_MODEL", f"{model} is split over devices: no pins for it")
        needed = sum(c.weights for c in costs) + max(c.activation for c in costs)
        if needed > device.capacity:
            held = f"with {model} pinned, {needed:.0f} bytes would be held on {device.id}"
            raise OrderRefusedError("NO_ROOM", f"{held}, which has {device.capacity:.0f}")

    def restore_pins(self, device: Device, now: float) -> None:
        """Load what is pinned and not there, as soon as that can be."""
        if device.loading or device.unloading or not device.usable:
            return
        for model in sorted(device.pinned - device.resident.keys()):
            if device.load_not_before.get(model, 0.0) > now:
                continue
            if found := self._victims(model, device, now):
                self._load(model, device, found[1], now, "it is pinned here")
                return

    def _free_to_change(self, device: Device) -> None:
        """Raise OrderRefusedError where nothing can be loaded or unloaded now."""
        if device.quarantined:
            raise OrderRefusedError("DEVICE_QUARANTINED", f"{device.id}: {device.quarantined}")
        if device.loading or device.unloading:
            what = f"loads {device.loading}" if device.loading else f"unloads {device.unloading}"
            raise OrderRefusedError("DEVICE_BUSY", f"{device.id} {what}; try again when it has")

    def _settle_overdraft(self, device: Device, now: float) -> None:
        """Something there is larger than it was said to be: make room until all fits again."""
        if device.free(self.models) >= 0:
            device.overdrawn = False
        elif not device.loading and not device.unloading:
            self.evict_neighbour(device, "what is there, measured larger than declared", now)

    def _holds(self, device: Device, ticket: Ticket) -> bool:
        """Whether the ticket would fit there with its model alone."""
        model = self.models[ticket.model]
        needed = model.weights + ticket.rows * model.shapes[ticket.shape].activation
        return needed <= device.capacity

    def wants_of_the_hungry(self, now: float) -> None:
        """Loads for what waits, those with the most weight for each second of loading first."""
        if not any(not d.loading for d in self._sched.devices.values()):
            return
        scored = []
        for i, model in enumerate(self._sched.queues.hungry):
            if self.models[model].gang == 1:
                waiting = self._waiting(model)
                urgency = self._urgency(model, waiting, now)
                scored.append((bool(self.replicas[model]), -urgency, i, model, waiting))
        scored.sort()  # by the first three: no two are hungry at the same place
        if len(scored) > MOST_WANTS:  # the most urgent, and a part of the others in turn
            others = scored[MOST_WANTS:]
            self._turn = (self._turn + FEW_WANTS) % len(others)
            scored = scored[:MOST_WANTS] + (others + others)[self._turn :][:FEW_WANTS]
        for _, _, _, model, waiting in scored:
            self._want(model, waiting, now)

    def want(self, model: str, now: float) -> None:
        """Load the model somewhere, if that pays."""
        if self.models[model].gang == 1:
            self._want(model, self._waiting(model), now)

    def _want(self, model: str, waiting: list[Ticket], now: float) -> None:
        copies = len(self.replicas[model]) + len(self.loading[model])
        sched, load = self._sched, self.load_seconds(model)
        homeless = (
            bool(waiting)
            and not self.loading[model]
            and not any(self._holds(d, waiting[0]) for d in self.replicas[model])
        )
        if copies and not homeless:
            if self._wait(model) <= KAPPA * load:
                return
            gain = 0.25 * sched.queues.weight[model] + HORIZON * self.demand.worth(
                model, copies + 1, now
            )
            if gain <= 0:
                return
            must = False
        else:
            soon, must = self._soon(waiting, load, now)
            gain = soon + HORIZON * self.demand.worth(model, 1, now)
        place = self._pick(model, copies, now, waiting[0] if waiting else None)
        if place is None:
            if homeless:
                self._drain(waiting[0], load, now)
            return
        cost, device, victims = place
        if must or gain >= HORIZON * cost:
            why = "the last chance of one that waits" if must else f"gain {gain:.3g}"
            self._load(model, device, victims, now, f"{why}, cost {HORIZON * cost:.3g}")

    def _drain(self, ticket: Ticket, load: float, now: float) -> None:
        """No device can take the model while its batch runs: let one run out.

        A last resort against starvation, where what runs leaves no room on any device even with
        all else unloaded: a device that drains does less for the others.
        """
        if now - ticket.submitted < PATIENCE + 4 * load:
            return
        able = [d for d in self._sched.devices.values() if d.usable and self._holds(d, ticket)]
        if not able or not all(self._blocks(d, ticket) for d in able):
            return
        device = min(able, key=lambda d: (len(d.running), d.index))
        if device.yield_to is None or ticket.order < device.yield_to:
            device.yield_to = ticket.order

    def _blocks(self, device: Device, ticket: Ticket) -> bool:
        """Whether the model that runs there leaves no room for the ticket's, with all else gone."""
        model = self.models[ticket.model]
        needed = model.weights + model.shapes[ticket.shape].activation * ticket.rows
        running = {t.model for t in device.running.values()}
        held = sum(self.models[m].weights for m in running) + device.activations(self.models)
        return held + needed > device.capacity

    def _soon(self, waiting: list[Ticket], load: float, now: float) -> tuple[float, bool]:
        """Weight of what a load can still save; and whether somebody is at the last chance."""
        soon, must = 0.0, False
        finish_all = self._sched.queues.late is not Late.REJECT
        factor, margin = LAST_CHANCE
        for ticket in waiting:
            if ticket.late or not ticket.counted:
                must = must or (finish_all and now - ticket.submitted > FORCE_LATE)
                continue
            done = now + load + ticket.work
            if done <= ticket.due:
                soon += WEIGHTS[ticket.cls]
            if ticket.cls < 2 and now + factor * load + ticket.work + margin > ticket.due:
                must = True
        return soon, must

    def _waiting(self, model: str) -> list[Ticket]:
        found: list[Ticket] = []
        for queue in self._sched.queues.by_model[model].values():
            found.extend(islice(queue, LOOKED_AT - len(found)))
            if len(found) >= LOOKED_AT:
                break
        return found

    def _urgency(self, model: str, waiting: list[Ticket], now: float) -> float:
        total = 0.0
        for ticket in waiting:
            weight = WEIGHTS[ticket.cls] * (0.5 if ticket.late else 1.0)
            total += weight * (1 + (now - ticket.submitted) / 30.0)
        return total / self.load_seconds(model)

    def _wait(self, model: str) -> float:
        """Seconds that a newcomer would wait at the least pressed of a few replicas."""
        sched = self._sched
        replicas, loading = self.replicas[model], self.loading[model]
        if not replicas:
            return 0.0  # its load is under way
        work = sched.queues.work
        waits = [
            sum(work[m] / len(self.replicas[m]) for m in device.resident if work[m]) / device.speed
            for device in sched.sample(replicas, 4)
        ]
        return min(waits) * len(replicas) / (len(replicas) + len(loading))

    def _prefetch(self, now: float) -> None:
        """Load what the next replica is worth more than what it displaces; fill free memory."""
        budget = max(1, len(self._sched.devices) // 16)
        found = []
        for model, costs in self.models.items():
            if costs.gang > 1 or self._dismissed.get(model, now) > now:
                continue
            copies = len(self.replicas[model]) + len(self.loading[model])
            worth = self.demand.worth(model, copies + 1, now)
            if worth > 1e-3:
                found.append((worth / costs.weights, worth, copies, model))
        for _, worth, copies, model in sorted(found, reverse=True)[: 4 * budget]:
            place = self._pick(model, copies, now)
            if place is None:
                continue
            cost, device, victims = place
            if worth > PREFETCH_GAIN * cost * (1 + self.load_seconds(model) / HORIZON):
                why = f"before it is asked for: worth {worth:.3g}/s, cost {cost:.3g}/s"
                self._load(model, device, victims, now, why)
                budget -= 1
                if not budget:
                    return

    def _pick(
        self, model: str, copies: int, now: float, ticket: Ticket | None = None
    ) -> tuple[float, Device, list[str]] | None:
        """Where loading displaces least: (worth displaced, device, victims)."""
        best: tuple[float, int, float, Device, list[str]] | None = None
        sched = self._sched
        worth = self.demand.worth(model, copies + 1, now) + 0.1 * sched.queues.weight[model]
        for device in self._candidates():
            if device.loading or device.unloading or not device.usable:
                continue
            if model in device.resident or device.load_not_before.get(model, 0.0) > now:
                continue
            if ticket is not None and not self._holds(device, ticket):
                continue
            found = self._victims(model, device, now)
            if found is None:
                continue
            cost, victims = found
            pressure = sum(
                self.demand.work_rate(m, now) / len(self.replicas[m]) for m in device.resident
            )
            busy = 0.2 if device.running else 0.0
            score = cost + PHI * worth * (pressure / device.speed + busy)
            if best is None or (score, device.index) < best[:2]:
                best = (score, device.index, cost, device, victims)
        return (best[2], best[3], best[4]) if best else None

    def load_group(
        self, model: str, groups: list[tuple[Device, ...]], homes: int, now: float
    ) -> None:
        """Load a gang model's shards on the group where that displaces least, if there is one."""
        if self.loading[model]:
            return
        found = []
        for group in groups:
            costs = []
            for device in group:
                if model in device.resident:
                    costs.append((0.0, list[str]()))
                    continue
                fits = (
                    None
                    if device.loading or device.unloading or not device.usable
                    else self._victims(model, device, now)
                )
                if fits is None:
                    break
                costs.append(fits)
            if len(costs) == len(group) and not all(model in d.resident for d in group):
                found.append((sum(c for c, _ in costs), group[0].index, group, costs))
        if not found:
            return
        _, _, group, costs = min(found, key=lambda f: f[:2])
        for device, (_, victims) in zip(group, costs, strict=True):
            if model not in device.resident:
                self._load(model, device, victims, now, "its shard, for the gang that waits")

    def _candidates(self) -> list[Device]:
        """All devices of a small fleet; of a large one the idle first, then a sample."""
        devices = list(self._sched.devices.values())
        if len(devices) <= 32:
            return devices
        idle = list(islice(self._sched.idle.values(), 16))
        return list(dict.fromkeys([*idle, *self._sched.sample(devices, 24)]))

    def _victims(self, model: str, device: Device, now: float) -> tuple[float, list[str]] | None:
        """What must go to make room, least worth a byte first; None if that is not enough."""
        models, sched = self.models, self._sched
        held = sum(models[m].weights for m in device.resident)
        most = max(
            [models[model].activation, device.activations(models)]
            + [models[m].activation for m in device.resident]
            + ([device.gang.rows * shape_of(device.gang, models).activation] if device.gang else [])
        )
        missing = held + models[model].weights + most - device.capacity
        if missing <= 0:
            return 0.0, []
        in_use = {t.model for t in device.running.values()}
        if device.gang is not None:
            in_use.add(device.gang.model)
        values = []
        for m in device.resident:
            if m in in_use or m in device.pinned or device.unload_not_before.get(m, 0.0) > now:
                continue
            young = now - device.loaded_at[m] < MIN_RESIDENCE * models[m].load
            if sched.queues.count[m] and young:
                continue
            values.append((self._value(m, now), device.resident[m], m))
        cost, victims = 0.0, []
        for value, _, m in sorted(values):
            if missing <= 0:
                break
            victims.append(m)
            cost += value * models[m].weights
            missing -= models[m].weights
        return (cost, victims) if missing <= 0 else None

    def _value(self, model: str, now: float) -> float:
        """What one replica of a resident is worth a byte."""
        replicas = max(1, len(self.replicas[model]))
        worth = self.demand.worth(model, replicas + len(self.loading[model]), now)
        queued = PROTECT_VALUE * self._sched.queues.weight[model]
        queued += PROTECT_COUNT * min(8, self._sched.queues.count[model])
        return (worth + queued / replicas) / self.models[model].weights

    def _load(
        self, model: str, device: Device, victims: list[str], now: float, reason: str
    ) -> None:
        for victim in victims:
            self.unloaded(device, victim)
        device.loading = model
        device.load_began, device.load_ends = now, now + self.load_seconds(model)
        self.loading[model].append(device)
        self._sched.out.append(Load(model, device.id, tuple(victims), reason))
