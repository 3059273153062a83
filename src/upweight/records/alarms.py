"""When the numbers say that nothing can be learned: what, why, and what to do, in one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """An alarm: the metric that it watches, when it rings, and what it says (`{:...}` is the metric)."""

    metric: str
    rings: Callable[[float], bool]
    message: str


RULES: dict[str, Rule] = {
    "truncated": Rule(
        "rollout/truncated_share",
        lambda share: share > 0.9,
        "{:.0%} of the completions were cut off before they ended, so hardly any can be rewarded for its answer: "
        "raise sampling.max_completion_tokens, or check that the model has learned to stop",
    ),
    "constant": Rule(
        "rollout/constant_group_share",
        lambda share: share > 0.95,
        "in {:.0%} of the groups every completion has the same reward, so there is nothing to prefer: the task is too "
        "hard or too easy for this model; change its difficulty or raise batch.group_size",
    ),
    "zero": Rule(
        "rollout/zero_reward_share",
        lambda share: share == 1,
        "every completion has reward 0, so there is nothing to learn from: check the reward on a few completions with "
        "`upweight sample`, fine-tune on demonstrations first, or take an easier task",
    ),
    "mismatch": Rule(
        "train/sampler_mismatch_mean",
        lambda nats: nats > 0.1,
        "sampler and learner disagree on the log-probs of the same tokens by {:.2f} nats on average, so the update is "
        "biased: stale weights in the sampler, another temperature or another dtype are the likely causes",
    ),
}


def alarms(metrics: Mapping[str, float]) -> list[str]:
    """What one step's metrics warn of, one line each. A metric that is missing or NaN warns of nothing."""
    return [_line(rule, metrics) for rule in RULES.values() if _rings(rule, metrics)]


class Alarms:
    """Alarms with patience: one rings when it holds `patience` steps in a row, and at most once in `quiet` steps."""

    def __init__(self, patience: int = 3, quiet: int = 50) -> None:
        self.patience = patience
        self.quiet = quiet
        self._streak = dict.fromkeys(RULES, 0)
        self._rung: dict[str, int] = {}

    def check(self, step: int, metrics: Mapping[str, float]) -> list[str]:
        """The lines to show after this step. To be called once for every step, in order."""
        lines = []
        for name, rule in RULES.items():
            self._streak[name] = self._streak[name] + 1 if _rings(rule, metrics) else 0
            rested = name not in self._rung or step - self._rung[name] >= self.quiet
            if self._streak[name] >= self.patience and rested:
                self._rung[name] = step
                lines.append(_line(rule, metrics))
        return lines

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to ring at the same steps; JSON-able."""
        return {"streak": dict(self._streak), "rung": dict(self._rung)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self._streak = dict.fromkeys(RULES, 0) | state["streak"]
        self._rung = dict(state["rung"])


def _rings(rule: Rule, metrics: Mapping[str, float]) -> bool:
    return rule.metric in metrics and rule.rings(metrics[rule.metric])


def _line(rule: Rule, metrics: Mapping[str, float]) -> str:
    return rule.message.format(metrics[rule.metric])
