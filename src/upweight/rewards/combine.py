"""From the values of named parts to one reward: gates, then the weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from upweight.config import RewardPart
from upweight.errors import UserError, nearest
from upweight.rewards.call import Stepwise

Value = float | Stepwise


@dataclass(frozen=True)
class Scored:
    """A reward, what each part counted for before its weight, and the steps of those parts that score steps."""

    reward: float
    parts: Mapping[str, float]
    steps: Mapping[str, Stepwise] = field(default_factory=dict)


@dataclass(frozen=True)
class Composition:
    """reward = sum over parts of weight * value, where a part counts 0 while the part that it needs is below 1."""

    weights: Mapping[str, float]
    gates: Mapping[str, str]

    def scored(self, values: Mapping[str, Value]) -> Scored:
        """The reward of these parts, which need not be all."""
        closed = self.closed({name: number(value) for name, value in values.items()})
        parts = {name: 0.0 if name in closed else number(value) for name, value in values.items()}
        steps = {name: value for name, value in values.items() if isinstance(value, Stepwise)}
        shut = {name: Stepwise(0.0, (), ()) for name in steps if name in closed}
        return Scored(self.total(parts), parts, {**steps, **shut})

    def total(self, parts: Mapping[str, float]) -> float:
        """The weighted sum."""
        return sum(self.weights[name] * value for name, value in parts.items())

    def closed(self, parts: Mapping[str, float]) -> frozenset[str]:
        """The parts that do not count: what they need is known and below 1, or does itself not count."""

        def shut(name: str) -> bool:
            gate = self.gates.get(name)
            return gate is not None and gate in parts and (parts[gate] < 1 or shut(gate))

        return frozenset(filter(shut, parts))


def number(value: Value) -> float:
    """The one number of a part's value."""
    return value.value if isinstance(value, Stepwise) else value


def composition(parts: Mapping[str, RewardPart]) -> Composition:
    """How the parts of a config are put together. Raises UserError for a gate that is no part, or needs itself."""
    gates = {name: part.needs for name, part in parts.items() if part.needs is not None}
    for name, gate in gates.items():
        if gate not in parts:
            raise UserError(f"rewards.parts.{name}.needs: there is no part {gate!r}{nearest(gate, parts)}")
    for name, gate in gates.items():
        seen, behind = {name}, gate
        while behind in gates and behind not in seen:
            seen.add(behind)
            behind = gates[behind]
        if behind in seen:
            raise UserError(f"rewards.parts.{name}.needs: {name!r} would wait for itself by way of {gate!r}")
    return Composition({name: part.weight for name, part in parts.items()}, gates)
