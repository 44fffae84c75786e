"""When a model is loaded: for what waits, before it is asked for, and as a last resort. Pure.

A load happens only if what it gains over the next HORIZON seconds is more than what it displaces,
or where somebody is at the last chance.
"""

from __future__ import annotations

from itertools import islice

from scheduler.books import Books
from scheduler.device import Device
from scheduler.placement import HORIZON, SMALL_FLEET, Placement
from scheduler.residency import Residency
from scheduler.runqueue import WEIGHTS, Late, Ticket

KAPPA = 1.5  # a further replica only where the wait exceeds so many loads
PREFETCH_GAIN = 1.5
FORCE_LATE = 30.0  # seconds: then late work has its model loaded, whatever the cost
LAST_CHANCE = 1.3, 5.0  # factor on the load, and seconds of margin
MOST_WANTS, FEW_WANTS = 48, 8  # models for which a place is looked for in one go
PATIENCE = 30.0  # seconds, and four loads: then a device drains for a model that found no place
LOOKED_AT = 16  # queued tickets of a model


class Wants:
    """Decides on loads. Part of the core."""

    def __init__(self, books: Books, placement: Placement, residency: Residency) -> None:
        self._books = books
        self._placement = placement
        self._residency = residency
        self._turn = 0
        self._order: list[str] = []  # the hungry, most urgent first, as of the last tick
        self.dismissed: dict[str, float] = {}  # model -> not prefetched until then

    def tick(self, now: float) -> None:
        """Loads for what waits, then those that will be wanted."""
        for device in self._books.devices.values():
            device.yield_to = None  # wants say it again where they still wait
        self._books.demand.tick(now)
        self._of_the_hungry(now)
        self._prefetch(now)

    def idle(self, device: Device, now: float) -> None:
        """A device has nothing that it can run: room for what waits, or loads.

        In a large fleet that happens often: then only what it has itself (which may not fit there)
        and the most urgent of the last tick are looked at.
        """
        books = self._books
        if not len(books.queues) or self._make_room(device, now):
            return
        if len(books.devices) <= SMALL_FLEET:
            self._of_the_hungry(now)
            return
        looked_at = dict.fromkeys([*device.resident, *self._order])
        hungry = (model for model in looked_at if books.queues.count[model])
        for model in islice(hungry, FEW_WANTS):
            if device.loading or device.unloading:
                return
            self._want(model, self._waiting(model), now)

    def _of_the_hungry(self, now: float) -> None:
        """Loads for what waits, those with the most weight for each second of loading first."""
        books = self._books
        if not any(not d.loading for d in books.devices.values()):
            return
        scored = []
        for i, model in enumerate(books.queues.hungry):
            if books.models[model].gang == 1:
                waiting = self._waiting(model)
                urgency = self._urgency(model, waiting, now)
                scored.append((bool(books.replicas[model]), -urgency, i, model, waiting))
        scored.sort()  # by the first three: no two are hungry at the same place
        self._order = [model for _, _, _, model, _ in scored]
        if len(scored) > MOST_WANTS:  # the most urgent, and a part of the others in turn
            others = scored[MOST_WANTS:]
            self._turn = (self._turn + FEW_WANTS) % len(others)
            scored = scored[:MOST_WANTS] + (others + others)[self._turn :][:FEW_WANTS]
        for _, _, _, model, waiting in scored:
            self._want(model, waiting, now)

    def want(self, model: str, now: float) -> None:
        """Load the model somewhere, if that pays."""
        if self._books.models[model].gang == 1:
            self._want(model, self._waiting(model), now)

    def _want(self, model: str, waiting: list[Ticket], now: float) -> None:
        books, place = self._books, self._placement
        load = place.load_seconds(model)
        homeless = (
            bool(waiting)
            and not books.loading[model]
            and not any(place.holds(d, waiting[0]) for d in books.replicas[model])
        )
        copies = books.copies(model)
        if copies and not homeless:
            if self._wait(model) <= KAPPA * load:
                return
            gain = 0.25 * books.queues.weight[model]
            gain += HORIZON * books.demand.worth(model, copies + 1, now)
            if gain <= 0:
                return
            must = False
        else:
            soon, must = self._soon(waiting, load, now)
            gain = soon + HORIZON * books.demand.worth(model, 1, now)
        found = place.pick(model, now, waiting[0] if waiting else None)
        if found is None:
            if homeless and not self._shrink(waiting[0]):
                self._drain(waiting[0], load, now)
            return
        if must or gain >= HORIZON * found.cost:
            why = "the last chance of one that waits" if must else f"gain {gain:.3g}"
            why += f", cost {HORIZON * found.cost:.3g}"
            self._residency.load(model, found.device, found.victims, now, why)

    def _wait(self, model: str) -> float:
        """Seconds that a newcomer would wait at the least pressed of a few replicas."""
        books = self._books
        replicas, loading = books.replicas[model], books.loading[model]
        if not replicas:
            return 0.0  # its load is under way
        work = books.queues.work
        waits = [
            sum(work[m] / len(books.replicas[m]) for m in device.resident if work[m]) / device.speed
            for device in books.sample(replicas, 4)
        ]
        return min(waits) * len(replicas) / (len(replicas) + len(loading))

    def _soon(self, waiting: list[Ticket], load: float, now: float) -> tuple[float, bool]:
        """Weight of what a load can still save; and whether somebody is at the last chance."""
        soon, must = 0.0, False
        finish_all = self._books.queues.late is not Late.REJECT
        factor, margin = LAST_CHANCE
        for ticket in waiting:
            waits_long = finish_all and now - ticket.submitted > FORCE_LATE
            if ticket.late or not ticket.counted:
                must = must or waits_long
                continue
            # What is late is called so only where its model is: here it may not be yet.
            must = must or (waits_long and now > ticket.due)
            done = now + load + ticket.work
            if done <= ticket.due:
                soon += WEIGHTS[ticket.cls]
            if ticket.cls < 2 and now + factor * load + ticket.work + margin > ticket.due:
                must = True
        return soon, must

    def _waiting(self, model: str) -> list[Ticket]:
        found: list[Ticket] = []
        for queue in self._books.queues.by_model[model].values():
            found.extend(islice(queue, LOOKED_AT - len(found)))
            if len(found) >= LOOKED_AT:
                break
        return found

    def _urgency(self, model: str, waiting: list[Ticket], now: float) -> float:
        total = 0.0
        for ticket in waiting:
            weight = WEIGHTS[ticket.cls] * (0.5 if ticket.late else 1.0)
            total += weight * (1 + (now - ticket.submitted) / 30.0)
        return total / self._placement.load_seconds(model)

    def _prefetch(self, now: float) -> None:
        """Load what the next replica is worth more than what it displaces; fill free memory."""
        books = self._books
        budget = max(1, len(books.devices) // 16)
        found = []
        for model, costs in books.models.items():
            if costs.gang > 1 or self.dismissed.get(model, now) > now:
                continue
            worth = books.demand.worth(model, books.copies(model) + 1, now)
            if worth > 1e-3:
                found.append((worth / costs.displaced, worth, model))
        for _, worth, model in sorted(found, reverse=True)[: 4 * budget]:
            place = self._placement.pick(model, now)
            if place is None:
                continue
            load = self._placement.load_seconds(model)
            if worth > PREFETCH_GAIN * place.cost * (1 + load / HORIZON):
                why = f"before it is asked for: worth {worth:.3g}/s, cost {place.cost:.3g}/s"
                self._residency.load(model, place.device, place.victims, now, why)
                budget -= 1
                if not budget:
                    return

    # Last resorts against starvation.

    def _make_room(self, device: Device, now: float) -> bool:
        """Unload an idle neighbour where a model is here, but no room for its activations."""
        books = self._books
        for model in device.resident:
            if not books.queues.count[model]:
                continue
            for queue in list(books.queues.by_model[model].values()):
                head = books.queues.head(queue, now)
                if head is None or books.fits(device, head):
                    continue
                why = f"its place is needed to run {model}"
                if self._placement.holds(device, head) and self._residency.make_room(
                    device, model, now, why
                ):
                    return True
        return False

    def _shrink(self, ticket: Ticket) -> bool:
        """No device has room for all its rows at once: it goes in smaller parts. False if some has.

        A card may have been profiled on larger devices than are here.
        """
        books = self._books
        model, devices = books.models[ticket.model], books.devices.values()
        most = max((model.most_rows(ticket.shape, d.capacity) for d in devices), default=0)
        if not 1 <= most < ticket.rows:
            return False
        books.queues.pop(ticket)
        ticket.rows = most
        books.queues.push(ticket)
        return True

    def _drain(self, ticket: Ticket, load: float, now: float) -> None:
        """No device can take the model while its batch runs: let one run out.

        Only where what runs leaves no room on any device even with all else unloaded: a device
        that drains does less for the others.
        """
        if now - ticket.submitted < PATIENCE + 4 * load:
            return
        place, devices = self._placement, self._books.devices.values()
        able = [d for d in devices if d.usable and place.holds(d, ticket)]
        if not able or not all(place.blocked(d, ticket) for d in able):
            return
        device = min(able, key=lambda d: (len(d.running), d.index))
        if device.yield_to is None or ticket.order < device.yield_to:
            device.yield_to = ticket.order
