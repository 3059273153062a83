"""What all methods that learn from rollouts share: one chain of derived columns, and the optional terms.

Most of the chain is switched off: shaped rewards, the advantage that is the method's own, correction of the sampler's
mismatch, masking of cut-off completions. The optional terms are a KL penalty and an entropy bonus.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from upweight.algorithms import Algorithm, Call, Carry, Derived, Filter, Term
from upweight.objectives import advantages, controllers, correction, filters, kl, policy, shaping
from upweight.objectives.tokens import Reduction

SHAPED = (
    Derived("rewards", Call(shaping.soft_overlong, {"overlong_share": 0.0}), switch="overlong_share"),
    Derived("rewards", Call(shaping.missing_eos), switch="missing_eos_penalty"),
)
KL_IN_REWARDS = Derived("rewards", Call(shaping.kl_in_rewards), switch="kl_reward_coef")
TOKEN_REWARDS = (
    Derived("token_rewards", Call(shaping.terminal_rewards)),
    Derived("token_rewards", Call(shaping.kl_in_token_rewards), switch="kl_reward_coef"),
)
CORRECTED = (
    Derived("sampler_weights", Call(correction.importance_weights), switch="sampler_correction"),
    Derived("advantages", Call(correction.corrected), switch="sampler_correction"),
    Derived("loss_mask", Call(shaping.mask_truncated), switch="overlong_filter"),
)
ADAPTIVE_KL = Carry("kl_reward_coef", Call(controllers.adaptive_coefficient), switch="kl_target")
MIXED_GROUPS = Filter(Call(filters.mixed_outcomes), switch="dynamic_sampling")
WHITENED = Derived("advantages", Call(advantages.whiten), switch="whiten")


def from_rewards(function: Any, **options: Any) -> tuple[Derived, ...]:
    """Rewards with KL taken off, then one advantage a completion."""
    return (KL_IN_REWARDS, Derived("advantages", Call(function, options)))


def from_rollouts(
    name: str,
    title: str,
    paper: str,
    advantage: tuple[Derived, ...],
    loss: Call,
    reduction: Reduction,
    *,
    more_terms: tuple[Term, ...] = (),
    carries: tuple[Carry, ...] = (),
    switches: Mapping[str, bool] | None = None,
    options: Mapping[str, Any] | None = None,
    **record: Any,
) -> Algorithm:
    """A policy-gradient method: the shared chain around its own advantage, its own loss and the optional terms."""
    method = Algorithm(
        name=name,
        title=title,
        paper=paper,
        source="rollouts",
        derived=(*SHAPED, *advantage, *CORRECTED),
        filters=(MIXED_GROUPS,),
        terms=(
            Term("policy", loss, reduction),
            *more_terms,
            Term("kl", Call(kl.penalty), reduction, coefficient=0.0),
            Term("entropy", Call(policy.entropy_bonus), reduction, coefficient=0.0),
        ),
        carries=(ADAPTIVE_KL, *carries),
        switches={"dynamic_sampling": False, "overlong_filter": False, **(switches or {})},
        **record,
    )
    return method.with_options(options or {})


def without_shaped_rewards(method: Algorithm) -> Algorithm:
    """The method without the options that act on `rewards`, for one that does not read them."""
    return replace(method, derived=tuple(step for step in method.derived if step.column != "rewards"), carries=())
