"""The record that a method is: a value, never a class of its own.

A method chooses where the tokens come from (`source`), what the weight is (`derived` columns and `terms`) and how
the sum is divided (`reduction`). The functions are those of `objectives/` or a user's own, and **a parameter
without a default is a column that the function reads; one with a default is an option**, which a preset may set
and a user may override by its name. `kl_coef` is the coefficient of the term named `kl`.

What happens to a batch is read off the record from top to bottom:

    filters      which groups of rollouts are worth a place in the batch
    derived      columns of the whole batch, one after the other: shaped rewards, advantages, returns, ...
    statistics   numbers of one minibatch under the current policy, before its first backward pass
    terms        the loss: sum over terms of coefficient * weight * loss, divided as each term's reduction says
    carries      options that move from batch to batch: a running baseline, an adaptive KL coefficient
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_type_hints

from upweight.errors import UserError, nearest
from upweight.objectives import advantages
from upweight.objectives.tokens import TOKEN_REDUCTIONS, Reduction

Function = Callable[..., Any]
Source = Literal["demonstrations", "pairs", "labels", "steps", "rollouts"]
PAIR_ROLES = ("chosen_", "rejected_")

# Values of an option that a formula allows but nobody should want, with the reason.
REFUSED: Mapping[tuple[str, str], str] = {
    ("kl_reward_estimator", "k2"): "in the reward its gradient is not that of any KL; use kl_coef with kl_estimator k2",
    ("kl_reward_estimator", "k3"): (
        "in the reward its gradient is that of KL(pi || ref) minus KL(ref || pi), nearly nothing near the reference; "
        "use kl_coef with kl_estimator k3 or weighted_k3"
    ),
}


@cache
def columns_of(function: Function) -> tuple[str, ...]:
    """The columns that a function reads: its parameters without a default."""
    return tuple(p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty)


@cache
def options_of(function: Function) -> Mapping[str, Any]:
    """The options of a function with their defaults: its parameters that have one."""
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty}


def choices_of(function: Function) -> dict[str, tuple[Any, ...]]:
    """The values that an option may have, for each option whose annotation lists them."""
    hints = get_type_hints(function)
    return {name: get_args(hints[name]) for name in options_of(function) if _is_literal(hints.get(name))}


@dataclass(frozen=True)
class Call:
    """A pure function with its options set; columns are bound when it is called."""

    function: Function
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, columns: Mapping[str, Any]) -> Any:
        """The function's value, its columns taken from `columns` by name. Raises KeyError for one that is missing."""
        return self.function(**{name: columns[name] for name in columns_of(self.function)}, **self.options)

    def all_options(self) -> dict[str, Any]:
        """Every option with the value that it has here."""
        return {**options_of(self.function), **self.options}


@dataclass(frozen=True)
class Derived:
    """A column of the batch, computed from those before it; it may replace one (`rewards`, `loss_mask`).

    The value is [rows], or [rows, T] for one number a token. The option named by `switch` leaves it out while it is
    0, False or "none".
    """

    column: str
    call: Call
    switch: str = ""


@dataclass(frozen=True)
class Filter:
    """Which rollouts of a group are kept, as a bool a row; groups that lose a row lose all, and others are drawn."""

    call: Call
    switch: str = ""


@dataclass(frozen=True)
class Statistic:
    """A number of a minibatch under the current policy (no gradient), bound as a column of its rows.

    With `mismatched`, every prompt is paired with the previous row's completion for this pass (KTO's reference point).
    """

    column: str
    call: Call
    mismatched: bool = False


@dataclass(frozen=True)
class Carry:
    """An option that moves: after each batch it becomes the call's value, in which the old one is `value`."""

    option: str
    call: Call
    switch: str = ""


@dataclass(frozen=True)
class Term:
    """One summand of the loss: coefficient * sum of weight * loss over the tokens, rows or units of a stream.

    `reduction` says over which, and what the weights are. `rows` names a bool column of the rows that take part.
    """

    name: str
    loss: Call
    reduction: Reduction
    coefficient: float = 1.0
    stream: str = "main"
    rows: str = ""

    @property
    def level(self) -> Literal["token", "row", "unit"]:
        """What the loss is a sum over."""
        levels: dict[str, Literal["row", "unit"]] = {"row_mean": "row", "unit_mean": "unit"}
        return levels.get(self.reduction, "token")


@dataclass(frozen=True)
class Algorithm:
    """A method as data. What is switched off does not exist: nothing that it would need is computed.

    `minibatches` cuts a batch into that many optimizer steps; `inner_epochs` goes over it that many times. Every
    `reference_every` batches (0: never) the reference moves to reference_mix * policy + (1 - reference_mix) *
    reference. `constant_length` is the L of that reduction; 0 is the run's token budget. `switches` are options
    that only turn something on or off. `model` is what is trained: a policy, or a scalar reward model.
    """

    name: str
    title: str
    paper: str
    source: Source
    terms: tuple[Term, ...]
    derived: tuple[Derived, ...] = ()
    filters: tuple[Filter, ...] = ()
    statistics: tuple[Statistic, ...] = ()
    carries: tuple[Carry, ...] = ()
    switches: Mapping[str, bool] = field(default_factory=dict)
    critic: bool = False
    model: Literal["policy", "reward"] = "policy"
    inner_epochs: int = 1
    minibatches: int = 1
    reference_every: int = 0
    reference_mix: float = 1.0
    constant_length: int = 0
    traps: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()

    def active_terms(self) -> tuple[Term, ...]:
        """The terms that take part in the loss."""
        return tuple(term for term in self.terms if term.coefficient != 0)

    def active_derived(self) -> tuple[Derived, ...]:
        """The derived columns that are switched on, in order."""
        return tuple(step for step in self.derived if self._is_on(step.switch))

    def active_filters(self) -> tuple[Filter, ...]:
        """The filters that are switched on."""
        return tuple(step for step in self.filters if self._is_on(step.switch))

    def active_carries(self) -> tuple[Carry, ...]:
        """The options that move."""
        return tuple(carry for carry in self.carries if self._is_on(carry.switch))

    def streams(self) -> tuple[str, ...]:
        """The extra streams that some term sums over."""
        return tuple(dict.fromkeys(t.stream for t in self.active_terms() if t.stream != "main"))

    def reads_before(self, column: str) -> bool:
        """Whether the column is read before the first optimizer step on a batch: by a derived one or by a carry."""
        calls = [step.call for step in self.active_derived()] + [carry.call for carry in self.active_carries()]
        return any(column in columns_of(call.function) for call in calls)

    def reads_within(self, column: str) -> bool:
        """Whether a term or a statistic reads the column, of both rows of a pair or of one."""
        calls = [term.loss for term in self.active_terms()] + [statistic.call for statistic in self.statistics]
        return any(column in map(base_column, columns_of(call.function)) for call in calls)

    def needs(self, column: str) -> bool:
        """Whether anything that takes part reads the column."""
        return self.reads_before(column) or self.reads_within(column)

    def steps_per_batch(self) -> int:
        """Optimizer steps made with one batch."""
        return self.inner_epochs * self.minibatches

    def needs_groups(self) -> bool:
        """Whether a prompt needs at least two completions."""
        compared = (
            advantages.group_relative,
            advantages.leave_one_out,
            advantages.process_relative,
            advantages.sum_of_relative,
        )
        return any(
            step.call.function in compared or step.call.all_options().get("baseline") == "group"
            for step in self.active_derived()
        )

    def options(self) -> dict[str, Any]:
        """Every name that a user may override, with its value here."""
        flat: dict[str, Any] = {"inner_epochs": self.inner_epochs, "minibatches": self.minibatches}
        if self.terms[0].level == "token":
            flat |= {"reduction": self.terms[0].reduction, "constant_length": self.constant_length}
        if any("ref_logprobs" in map(base_column, columns_of(call.function)) for call in self.calls()):
            flat |= {"reference_every": self.reference_every, "reference_mix": self.reference_mix}
        flat |= self.switches
        for call in self.calls():
            flat |= call.all_options()
        return flat | {f"{term.name}_coef": term.coefficient for term in self.terms[1:]}

    def with_options(self, chosen: Mapping[str, Any]) -> Algorithm:
        """This method with some options overridden by name.

        Raises UserError for a name that it does not have, or a value of another kind or out of its range.
        """
        known = self.options()
        for name, value in chosen.items():
            if name not in known:
                raise UserError(f"algorithm.{name}: {self.name} has no such option{nearest(name, known)}")
            _check_kind(f"algorithm.{name}", value, known[name])
        self._check_values(chosen)

        def override(call: Call) -> Call:
            own = {name: chosen[name] for name in options_of(call.function) if name in chosen}
            return replace(call, options={**call.options, **own})

        def override_term(term: Term) -> Term:
            reduction = chosen.get("reduction", term.reduction) if term.level == "token" else term.reduction
            coefficient = float(chosen.get(f"{term.name}_coef", term.coefficient))
            return replace(term, loss=override(term.loss), reduction=reduction, coefficient=coefficient)

        own = {f.name for f in fields(self)} & set(chosen)
        return replace(
            self,
            terms=tuple(override_term(term) for term in self.terms),
            derived=tuple(replace(step, call=override(step.call)) for step in self.derived),
            filters=tuple(replace(step, call=override(step.call)) for step in self.filters),
            statistics=tuple(replace(step, call=override(step.call)) for step in self.statistics),
            carries=tuple(replace(carry, call=override(carry.call)) for carry in self.carries),
            switches={name: chosen.get(name, value) for name, value in self.switches.items()},
            **{name: chosen[name] for name in own},
        )

    def _check_values(self, chosen: Mapping[str, Any]) -> None:
        choices: dict[str, tuple[Any, ...]] = {"reduction": TOKEN_REDUCTIONS}
        for call in self.calls():
            choices |= choices_of(call.function)
        for name, value in chosen.items():
            if (name, value) in REFUSED:
                raise UserError(f"algorithm.{name}: {value} is refused: {REFUSED[name, value]}")
            if name in choices and value not in choices[name]:
                raise UserError(f"algorithm.{name}: {value!r} is not one of {', '.join(choices[name])}")
        for name, least in {"inner_epochs": 1, "minibatches": 1, "reference_every": 0, "constant_length": 0}.items():
            if chosen.get(name, least) < least:
                raise UserError(f"algorithm.{name} must be at least {least}, not {chosen[name]}")
        if not 0 < chosen.get("reference_mix", 1.0) <= 1:
            raise UserError(f"algorithm.reference_mix must be above 0 and at most 1, not {chosen['reference_mix']}")

    def calls(self) -> Iterator[Call]:
        """Every function of the method with its options, switched on or not."""
        yield from (step.call for step in self.filters)
        yield from (step.call for step in self.derived)
        yield from (statistic.call for statistic in self.statistics)
        yield from (carry.call for carry in self.carries)
        yield from (term.loss for term in self.terms)

    def _is_on(self, switch: str) -> bool:
        return not switch or self.options()[switch] not in (0, False, "none")


def base_column(name: str) -> str:
    """The column behind a unit loss's parameter: `ref_logprobs` for `chosen_ref_logprobs`."""
    for role in PAIR_ROLES:
        name = name.removeprefix(role)
    return name


def _is_literal(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is Literal


def _check_kind(name: str, value: Any, default: Any) -> None:
    kind = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, kind):
        raise UserError(f"{name} must be like {default!r} ({type(default).__name__}), not {value!r}")
