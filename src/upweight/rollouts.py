"""From prompts to finished, scored groups of rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedTokenizerBase

from upweight.errors import UserError
from upweight.phases import phase
from upweight.rewards.call import Failed
from upweight.rewards.score import Pending, Rewards, Scored
from upweight.samplers.port import Sampler
from upweight.types import Batch, Completion, Prompt, Request, Rollout, SampleKey, SamplingParams


@dataclass(frozen=True)
class Collected:
    """The rollouts of one step in order of draw and member, and what became of the others.

    `failures` are those of `types.Batch`, one for each completion whose reward failed.
    """

    rollouts: tuple[Rollout, ...]
    failures: tuple[Mapping[str, str], ...]
    dropped: int


@dataclass(frozen=True)
class RolloutMaker:
    """Samples the groups of some prompts and scores each completion as it finishes.

    Of the completions of a call, at most `max_failed_share` may be dropped because their reward failed.
    """

    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    rewards: Rewards
    params: SamplingParams
    on_failure: str = "raise"
    max_failed_share: float = 1.0

    def collect(self, prompts: Sequence[tuple[int, Prompt]], group_size: int, seed: int, step: int) -> Collected:
        """`group_size` rollouts for each (draw, prompt).

        A reward that fails is treated by `on_failure`; a completion that is dropped never existed, and a group that
        is left with fewer than two of several members is dropped with it. Raises UserError when a reward fails and
        must not, when too many do, or when nothing is left.
        """
        by_draw = dict(prompts)
        requests = [
            Request(prompt.token_ids, SampleKey(seed, step, draw, member), self.params)
            for draw, prompt in prompts
            for member in range(group_size)
        ]
        kept: list[Rollout] = []
        failures: list[Mapping[str, str]] = []
        for completion, text, outcome in self._scored(requests, by_draw):
            prompt = by_draw[completion.key.draw]
            if isinstance(outcome, Failed):
                self._check_allowed(outcome, prompt)
                failures.append({"id": row_id(prompt, completion.key.draw, completion.key.member), **asdict(outcome)})
                if self.on_failure == "drop":
                    continue
                outcome = Scored(reward=0.0, parts=dict.fromkeys(self.rewards.names, 0.0))
            kept.append(_rollout(prompt, completion, text, outcome))
        self._check_share(failures, len(requests), step)
        with phase("reward"):
            whole = self.rewards.complete(_whole_groups(kept, group_size))
        if not whole:
            raise UserError(f"every completion of step {step} was dropped: {failures[-1]['message']}")
        return Collected(whole, tuple(failures), len(requests) - len(whole))

    def _scored(
        self, requests: Sequence[Request], by_draw: Mapping[int, Prompt]
    ) -> Iterator[tuple[Completion, str, Scored | Failed]]:
        """Completions as they were finished, with their texts and rewards, some of which are computed meanwhile."""
        begun: list[tuple[Completion, str, Pending]] = []
        try:
            for completion in self.sampler.sample(requests):
                with phase("reward"):
                    text = completion_text(self.tokenizer, completion)
                    pending = self.rewards.submit(by_draw[completion.key.draw], text, completion.finish_reason)
                begun.append((completion, text, pending))
            for completion, text, pending in begun:
                with phase("reward"):
                    outcome = pending.result()
                yield completion, text, outcome
        finally:
            for _, _, pending in begun:
                pending.cancel()

    def _check_allowed(self, failed: Failed, prompt: Prompt) -> None:
        if self.on_failure == "raise":
            raise UserError(
                f"reward {failed.part!r} failed on prompt {prompt.id}: {failed.message}; mend it, or set "
                'rewards.on_failure to "drop" or "zero"'
            )

    def _check_share(self, failures: Sequence[Mapping[str, str]], completions: int, step: int) -> None:
        if self.on_failure == "drop" and len(failures) > self.max_failed_share * completions:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(f["kind"] for f in failures).most_common())
            first = failures[0]
            raise UserError(
                f"the reward failed for {len(failures)} of {completions} completions of step {step} ({kinds}), more than "
                f"rewards.max_failed_share = {self.max_failed_share:g}; the first: {first['part']!r} on {first['id']}: "
                f"{first['message']}"
            )


def failure_counts(failures: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """How many rewards failed, and how many in each way that occurred."""
    kinds = Counter(failure["kind"] for failure in failures)
    return {"failed_rewards": len(failures), **{f"failed/{kind}": count for kind, count in sorted(kinds.items())}}


def row_id(prompt: Prompt, draw: int, member: int) -> str:
    """What a completion is called in batches and records."""
    return f"{prompt.id}#{draw}.{member}"


def completion_text(tokenizer: PreTrainedTokenizerBase, completion: Completion) -> str:
    """The completion as text, without special tokens such as the end-of-sequence token."""
    return str(tokenizer.decode(list(completion.token_ids), skip_special_tokens=True))


def _rollout(prompt: Prompt, completion: Completion, text: str, outcome: Scored) -> Rollout:
    return Rollout(
        prompt=prompt,
        text=text,
        token_ids=completion.token_ids,
        loss_mask=(True,) * len(completion.token_ids),
        behavior_logprobs=completion.logprobs,
        finish_reason=completion.finish_reason,
        reward=outcome.reward,
        reward_parts=outcome.parts,
        policy_version=completion.policy_version,
        draw=completion.key.draw,
        member=completion.key.member,
    )


def _whole_groups(rollouts: Iterable[Rollout], group_size: int) -> tuple[Rollout, ...]:
    groups: dict[int, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda r: (r.draw, r.member)):
        groups.setdefault(rollout.draw, []).append(rollout)
    least = min(2, group_size)
    return tuple(rollout for group in groups.values() if len(group) >= least for rollout in group)


def batch_of(rollouts: Sequence[Rollout], rewards: Rewards, token_budget: int) -> Batch:
    """Rollouts as the rows of one step; each row is its own unit, rollouts of one draw are a group.

    `token_budget` is the most tokens that a completion could have had.
    """
    parts = rollouts[0].reward_parts
    rows = {
        "rewards": torch.tensor([r.reward for r in rollouts], dtype=torch.float64),
        "truncated": torch.tensor([r.finish_reason == "length" for r in rollouts]),
        "correct": torch.tensor([rewards.is_correct(r.reward_parts) for r in rollouts]),
        "token_budget": torch.full((len(rollouts),), token_budget),
        "policy_version": torch.tensor([r.policy_version for r in rollouts]),
    }
    for name in parts:
        rows[f"part/{name}"] = torch.tensor([r.reward_parts[name] for r in rollouts], dtype=torch.float64)
    return Batch(
        ids=[row_id(r.prompt, r.draw, r.member) for r in rollouts],
        prompt_ids=[torch.tensor(r.prompt.token_ids) for r in rollouts],
        token_ids=[torch.tensor(r.token_ids) for r in rollouts],
        loss_mask=[torch.tensor(r.loss_mask) for r in rollouts],
        group_ids=torch.tensor([r.draw for r in rollouts]),
        unit_ids=torch.arange(len(rollouts)),
        streams=["main"] * len(rollouts),
        token_columns={"behavior_logprobs": [torch.tensor(r.behavior_logprobs) for r in rollouts]},
        row_columns=rows,
    )
