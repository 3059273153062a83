"""From prompts to finished, scored groups of rollouts."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial

from transformers import PreTrainedTokenizerBase

from upweight.drafts import Draft, text_of
from upweight.errors import UserError
from upweight.phases import phase
from upweight.rewards.call import Failed, Stepwise
from upweight.rewards.combine import Scored
from upweight.rewards.score import Pending, Rewards
from upweight.rewards.workers import Outcome
from upweight.samplers.port import Sampler
from upweight.turns import Turns
from upweight.types import Prompt, Rollout, SampleKey, SamplingParams, Step


@dataclass(frozen=True)
class Collected:
    """The rollouts of one step in order of draw and member, and what became of the others.

    `failures` are those of `types.Batch`, one for each completion whose reward or tool failed.
    """

    rollouts: tuple[Rollout, ...]
    failures: tuple[Mapping[str, str], ...]
    dropped: int


@dataclass(frozen=True)
class RolloutMaker:
    """Samples the groups of some prompts, has tools answer them, and scores each rollout as it finishes.

    Of the rollouts of a call, at most `max_failed_share` may be dropped because their reward failed.
    """

    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    rewards: Rewards
    params: SamplingParams
    on_failure: str = "raise"
    max_failed_share: float = 1.0
    turns: Turns | None = None

    def collect(self, prompts: Sequence[tuple[int, Prompt]], group_size: int, seed: int, step: int) -> Collected:
        """`group_size` rollouts for each (draw, prompt).

        A reward that fails is treated by `on_failure`; a completion that is dropped never existed, and a group that
        is left with fewer than two of several members is dropped with it. Raises UserError when a reward fails and
        must not, when too many do, or when nothing is left.
        """
        drafts = [
            Draft(prompt, SampleKey(seed, step, draw, member))
            for draw, prompt in prompts
            for member in range(group_size)
        ]
        kept: list[Rollout] = []
        failures: list[Mapping[str, str]] = []
        for draft, outcome in self._scored(drafts):
            scored = outcome
            if isinstance(scored, Failed):
                self._check_allowed(scored, draft.prompt)
                failures.append({"id": row_id(draft.prompt, draft.key.draw, draft.key.member), **asdict(scored)})
                if self.on_failure == "drop":
                    continue
                scored = Scored(reward=0.0, parts=dict.fromkeys(self.rewards.names, 0.0))
            kept.append(self._rollout(draft, scored))
        self._check_share(failures, len(drafts), step)
        with phase("reward"):
            whole = self.rewards.complete(_whole_groups(kept, group_size), partial(_located, self.tokenizer))
        if not whole:
            raise UserError(f"every completion of step {step} was dropped: {failures[-1]['message']}")
        return Collected(whole, tuple(failures), len(drafts) - len(whole))

    def _scored(self, drafts: Sequence[Draft]) -> Iterator[tuple[Draft, Scored | Failed]]:
        """Rollouts with their rewards, which are computed while others are sampled."""
        begun: list[tuple[Draft, Pending | Failed]] = []
        try:
            for draft, failed in self._finished(drafts):
                with phase("reward"):
                    begun.append((draft, failed or self._submit(draft)))
            for draft, pending in begun:
                with phase("reward"):
                    outcome = pending if isinstance(pending, Failed) else pending.result()
                yield draft, outcome
        finally:
            for _, pending in begun:
                if isinstance(pending, Pending):
                    pending.cancel()

    def _finished(self, drafts: Sequence[Draft]) -> Iterator[tuple[Draft, Failed | None]]:
        """Rollouts that need no further turn, in no promised order, and why a tool failed on them if it did."""
        waiting = {draft.key: draft for draft in drafts}
        while waiting:
            asked: list[tuple[Draft, Turns, Future[Outcome]]] = []
            for completion in self.sampler.sample([draft.request(self.params) for draft in waiting.values()]):
                draft = waiting[completion.key].sampled(completion)
                if self.turns is None or draft.finish_reason == "length":
                    yield draft, None
                else:
                    asked.append((draft, self.turns, self.turns.ask(draft)))
            waiting = {}
            for draft, turns, answer in asked:
                with phase("reward"):
                    reply = answer.result()
                if not isinstance(reply, str):
                    yield draft, reply if isinstance(reply, Failed) else None
                elif (longer := turns.goes_on(draft, reply, self.params)) is not None:
                    waiting[longer.key] = longer
                else:
                    yield draft.cut_off(), None

    def _submit(self, draft: Draft) -> Pending:
        text = draft.completion(self.tokenizer)
        return self.rewards.submit(
            draft.prompt,
            text,
            draft.finish_reason,
            transcript=draft.transcript(self.tokenizer) if draft.latest else text,
            token_ids=list(draft.token_ids),
            tokens=sum(draft.loss_mask),
            token_budget=self.params.max_completion_tokens,
        )

    def _rollout(self, draft: Draft, scored: Scored) -> Rollout:
        steps = {
            name: _found(self.tokenizer, draft.token_ids, draft.latest, found) for name, found in scored.steps.items()
        }
        return Rollout(
            prompt=draft.prompt,
            text=draft.transcript(self.tokenizer),
            token_ids=draft.token_ids,
            loss_mask=draft.loss_mask,
            behavior_logprobs=draft.logprobs,
            finish_reason=draft.finish_reason,
            reward=scored.reward,
            reward_parts=scored.parts,
            policy_version=draft.policy_version,
            draw=draft.key.draw,
            member=draft.key.member,
            steps=steps,
        )

    def _check_allowed(self, failed: Failed, prompt: Prompt) -> None:
        if self.on_failure == "raise":
            raise UserError(
                f"reward {failed.part!r} failed on prompt {prompt.id}: {failed.message}; mend it, or set "
                'rewards.on_failure to "drop" or "zero"'
            )

    def _check_share(self, failures: Sequence[Mapping[str, str]], rollouts: int, step: int) -> None:
        if self.on_failure == "drop" and len(failures) > self.max_failed_share * rollouts:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(f["kind"] for f in failures).most_common())
            first = failures[0]
            raise UserError(
                f"the reward failed for {len(failures)} of {rollouts} completions of step {step} ({kinds}), more than "
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


def _located(tokenizer: PreTrainedTokenizerBase, rollout: Rollout, steps: Stepwise) -> tuple[Step, ...]:
    """The tokens with which the steps of a whole rollout end."""
    return _found(tokenizer, rollout.token_ids, 0, steps)


def _found(
    tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...], first: int, steps: Stepwise
) -> tuple[Step, ...]:
    """The token that has the last character of each step in the text that begins at token `first`."""

    def characters(tokens: int) -> int:
        return len(text_of(tokenizer, token_ids[first : first + tokens]))

    lengths = range(len(token_ids) - first + 1)
    return tuple(
        Step(first + max(bisect_left(lengths, end, key=characters) - 1, 0), reward)
        for end, reward in zip(steps.ends, steps.rewards, strict=True)
    )


def _whole_groups(rollouts: Iterable[Rollout], group_size: int) -> tuple[Rollout, ...]:
    groups: dict[int, list[Rollout]] = {}
    for rollout in sorted(rollouts, key=lambda r: (r.draw, r.member)):
        groups.setdefault(rollout.draw, []).append(rollout)
    least = min(2, group_size)
    return tuple(rollout for group in groups.values() if len(group) >= least for rollout in group)
