"""Protobuf <-> plans."""

from __future__ import annotations

from atelier.generation import Priority
from atelier.plan import Plan
from atelier.translate import priority_from, priority_to
from atelier.v1 import tenant_pb2 as pb

NUMBERS = tuple(name for name in Plan.__dataclass_fields__ if name != "highest_priority")


def plan_to(plan: Plan) -> pb.Plan:
    """For an operator, or a gateway."""
    message = pb.Plan(highest_priority=priority_to(plan.highest_priority))
    for name in NUMBERS:
        setattr(message, name, getattr(plan, name))
    return message


def plan_from(message: pb.Plan) -> Plan | None:
    """As it was sent, good or not, with every class where it names none; None where it names one
    that there is not."""
    priority = priority_from(message.highest_priority)
    if priority is None:
        return None
    if message.highest_priority == 0:
        priority = Priority.INTERACTIVE
    return Plan(priority, *(getattr(message, name) for name in NUMBERS))
