"""The record that a method is, its terms, and the table of presets.

A method chooses where the tokens come from (`source`), what the weight is (`advantage` and `terms`) and how the sum
is divided (`reduction`). The functions are those of `objectives/`; **a function's parameters say what it reads**:
a parameter that names a column (`COLUMNS`) is bound to it, every other one is an option with a default that a
preset may set and a user may override by its name. `kl_coef` is the coefficient of the term named `kl`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from upweight.errors import UserError, nearest
from upweight.objectives import advantages, kl, policy
from upweight.objectives.tokens import REDUCTIONS, Reduction

COLUMNS = frozenset(
    {"rewards", "group_ids", "advantages", "logprobs", "old_logprobs", "ref_logprobs", "behavior_logprobs"}
)

Function = Callable[..., Tensor]


def columns_of(function: Function) -> tuple[str, ...]:
    """The columns that a function of `objectives/` reads, by its parameters' names."""
    return tuple(name for name in inspect.signature(function).parameters if name in COLUMNS)


def options_of(function: Function) -> dict[str, Any]:
    """The options of a function of `objectives/` with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in COLUMNS}


@dataclass(frozen=True)
class Call:
    """A pure function with its options set; columns are bound when it is called."""

    function: Function
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, columns: Mapping[str, Tensor]) -> Tensor:
        """The function's value, its columns taken from `columns` by name."""
        bound = {name: columns[name] for name in columns_of(self.function)}
        return self.function(**bound, **self.options)


@dataclass(frozen=True)
class Term:
    """One summand of the loss: coefficient * sum over tokens of weight * per-token loss."""

    name: str
    loss: Call
    reduction: Reduction
    coefficient: float = 1.0


@dataclass(frozen=True)
class Algorithm:
    """A method as data. A term with coefficient 0 does not exist: nothing it would need is computed.

    `minibatches` cuts a batch into that many optimizer steps; `inner_epochs` goes over it that many times.
    """

    name: str
    title: str
    paper: str
    source: Literal["dataset", "rollouts"]
    advantage: Call
    terms: tuple[Term, ...]
    inner_epochs: int = 1
    minibatches: int = 1

    def active_terms(self) -> tuple[Term, ...]:
        """The terms that take part in the loss."""
        return tuple(term for term in self.terms if term.coefficient != 0)

    def needs(self, column: str) -> bool:
        """Whether a term that takes part reads the column."""
        return any(column in columns_of(term.loss.function) for term in self.active_terms())

    def steps_per_batch(self) -> int:
        """Optimizer steps made with one batch."""
        return self.inner_epochs * self.minibatches

    def needs_groups(self) -> bool:
        """Whether a prompt needs at least two completions."""
        return self.advantage.function is advantages.group_relative

    def options(self) -> dict[str, Any]:
        """Every name that a user may override, with its value here."""
        flat: dict[str, Any] = {"inner_epochs": self.inner_epochs, "minibatches": self.minibatches}
        flat["reduction"] = self.terms[0].reduction
        flat |= {**options_of(self.advantage.function), **self.advantage.options}
        for term in self.terms:
            flat |= {**options_of(term.loss.function), **term.loss.options}
            if term is not self.terms[0]:
                flat[f"{term.name}_coef"] = term.coefficient
        return flat

    def with_options(self, chosen: Mapping[str, Any]) -> Algorithm:
        """This method with some options overridden by name.

        Raises UserError for a name that it does not have or a value of another kind.
        """
        known = self.options()
        for name, value in chosen.items():
            if name not in known:
                raise UserError(f"algorithm.{name}: {self.name} has no such option{nearest(name, known)}")
            _check_kind(f"algorithm.{name}", value, known[name])
        if chosen.get("reduction", "token_mean") not in REDUCTIONS:
            raise UserError(f"algorithm.reduction: {chosen['reduction']!r} is not one of {', '.join(REDUCTIONS)}")

        def override(call: Call) -> Call:
            own = {name: chosen[name] for name in options_of(call.function) if name in chosen}
            return replace(call, options={**call.options, **own})

        terms = tuple(
            replace(
                term,
                loss=override(term.loss),
                reduction=chosen.get("reduction", term.reduction),
                coefficient=float(chosen.get(f"{term.name}_coef", term.coefficient)),
            )
            for term in self.terms
        )
        counts = {name: chosen[name] for name in ("inner_epochs", "minibatches") if name in chosen}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"algorithm.{name} must be at least 1, not {count}")
        return replace(self, advantage=override(self.advantage), terms=terms, **counts)


def _check_kind(name: str, value: Any, default: Any) -> None:
    kind = (int, float) if isinstance(default, float) else type(default)
    if isinstance(value, bool) != isinstance(default, bool) or not isinstance(value, kind):
        raise UserError(f"{name} must be like {default!r} ({type(default).__name__}), not {value!r}")


_KL = Term("kl", Call(kl.k3), "seq_mean_token_mean", coefficient=0.0)


def _likelihood(reduction: Reduction) -> Term:
    return Term("policy", Call(policy.weighted_likelihood), reduction)


SFT = Algorithm(
    name="sft",
    title="supervised fine-tuning: every demonstrated token has weight 1",
    paper="maximum likelihood",
    source="dataset",
    advantage=Call(advantages.ones),
    terms=(_likelihood("token_mean"),),
)
RFT = Algorithm(
    name="rft",
    title="rejection sampling: imitate own completions with weight max(r, 0)",
    paper="2308.01825",
    source="rollouts",
    advantage=Call(advantages.positive_part),
    terms=(_likelihood("seq_mean_token_mean"),),
)
REINFORCE = Algorithm(
    name="reinforce",
    title="policy gradient with the raw reward, log-probs summed over the completion",
    paper="Williams 1992",
    source="rollouts",
    advantage=Call(advantages.raw_reward),
    terms=(_likelihood("seq_mean_token_sum"),),
)
REINFORCE_BASELINE = Algorithm(
    name="reinforce_baseline",
    title="policy gradient with the reward minus the mean reward of the batch",
    paper="Williams 1992",
    source="rollouts",
    advantage=Call(advantages.minus_batch_mean),
    terms=(_likelihood("seq_mean_token_sum"),),
)
GRPO = Algorithm(
    name="grpo",
    title="reward relative to the group, clipped ratio, mean of per-sequence means",
    paper="2402.03300",
    source="rollouts",
    advantage=Call(advantages.group_relative, {"std": "population", "std_eps": 1e-8}),
    terms=(
        Term("policy", Call(policy.clipped_surrogate, {"clip_low": 0.2, "clip_high": 0.2}), "seq_mean_token_mean"),
        _KL,
    ),
)

PRESETS: dict[str, Algorithm] = {a.name: a for a in (SFT, RFT, REINFORCE, REINFORCE_BASELINE, GRPO)}


def algorithm(name: str, options: Mapping[str, Any] | None = None) -> Algorithm:
    """The preset of that name with options overridden. Raises UserError for an unknown name or option."""
    if name not in PRESETS:
        raise UserError(f"unknown algorithm {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name].with_options(options or {})
