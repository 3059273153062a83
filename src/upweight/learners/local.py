"""The in-process learner: a transformers policy, a frozen reference if wanted, and AdamW."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from upweight.algorithms import Term
from upweight.checkpoint import flatten_optimizer, unflatten_optimizer
from upweight.config import LearnerConfig, OptimizerConfig
from upweight.learners.microbatches import microbatches, units_of
from upweight.learners.port import Which
from upweight.learners.schedule import learning_rate
from upweight.models.forward import score_rows
from upweight.models.load import save_model
from upweight.objectives.tokens import pad
from upweight.types import Annotated, Batch, StepStats


@dataclass(frozen=True)
class Tally:
    """What the backward pass over some rows yields beside the gradient; lists are aligned with those rows."""

    term_losses: dict[str, float]
    logprobs: list[Tensor]
    entropy: list[Tensor]
    pushes: dict[str, list[Tensor]]

    @staticmethod
    def blank(terms: Iterable[str], rows: int) -> Tally:
        """A tally of nothing, with room for the values of each row."""
        room = [torch.empty(0)] * rows
        names = list(terms)
        return Tally(dict.fromkeys(names, 0.0), list(room), list(room), {name: list(room) for name in names})


class LocalLearner:
    """One process, one policy. `total_steps` is the number of optimizer steps that the schedule spans."""

    def __init__(
        self,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        terms: Sequence[Term],
        *,
        reference: PreTrainedModel | None = None,
        temperature: float = 1.0,
        total_steps: int = 1,
        optimizer: OptimizerConfig | None = None,
        limits: LearnerConfig | None = None,
    ) -> None:
        self.policy = policy
        self.tokenizer = tokenizer
        self.reference = reference
        self.terms = tuple(terms)
        self.temperature = temperature
        self.total_steps = total_steps
        self.settings = optimizer or OptimizerConfig()
        self.limits = limits or LearnerConfig()
        self.steps_done = 0
        self.optimizer = torch.optim.AdamW(
            policy.parameters(),
            lr=self.settings.lr,
            betas=self.settings.betas,
            eps=self.settings.eps,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )

    @torch.no_grad()
    def score(self, rows: Batch, which: Which) -> list[Tensor]:
        """Log-probs of the rows' completion tokens under the policy or the reference."""
        model = self.policy if which == "policy" else self.reference
        if model is None:
            raise ValueError("this learner was built without a reference model")
        scored: list[Tensor] = [torch.empty(0)] * len(rows)
        for index in self._microbatches(rows, units_of(rows.unit_ids.tolist())):
            logprobs, _ = self._forward(model, rows.select(index))
            for row, values in zip(index, logprobs, strict=True):
                scored[row] = values.cpu()
        return scored

    def step(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> StepStats:
        """One optimizer step: gradient of the whole step, clip, AdamW."""
        self.zero_grad()
        tally = self.backward(rows, weights, units_of(rows.unit_ids.tolist()))
        return self.apply(tally)

    def zero_grad(self) -> None:
        """Forgets the gradient but keeps its memory."""
        self.optimizer.zero_grad(set_to_none=False)

    def backward(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]], units: list[list[int]]) -> Tally:
        """Adds the gradient of the given units of a step, one micro-batch after the other.

        The objective is differentiated with respect to the log-probs first: minus that derivative is the weight on
        grad log pi of each token, the only thing that the model's own backward pass needs.
        """
        tally = Tally.blank((term.name for term in self.terms), len(rows))
        for index in self._microbatches(rows, units):
            piece = rows.select(index)
            logprobs, entropy = self._forward(self.policy, piece)
            shares = {name: [column[i] for i in index] for name, column in weights.items()}
            pushes = self._objective(piece, logprobs, shares, tally.term_losses)
            torch.cat(logprobs).backward(-torch.cat([sum(row) for row in zip(*pushes.values(), strict=True)]))
            for place, row in enumerate(index):
                tally.logprobs[row] = logprobs[place].detach().cpu()
                tally.entropy[row] = entropy[place].cpu()
                for name, column in pushes.items():
                    tally.pushes[name][row] = column[place].cpu()
        return tally

    def _objective(
        self, rows: Batch, logprobs: list[Tensor], weights: Mapping[str, Sequence[Tensor]], losses: dict[str, float]
    ) -> dict[str, list[Tensor]]:
        """The pushes [T_i] of each term and row; adds each term's share of the loss to `losses`."""
        current = pad([row.detach() for row in logprobs]).requires_grad_()
        columns = {name: pad(column).to(current) for name, column in rows.token_columns.items()}
        # Where no pass was made to find the old log-probs, this is the first step on the batch: old is current.
        columns = {"old_logprobs": current.detach(), **columns, "logprobs": current}
        pushes = {}
        for term in self.terms:
            loss = term.coefficient * (pad(weights[term.name]).to(current) * term.loss(columns)).sum()
            losses[term.name] += loss.item()
            (gradient,) = torch.autograd.grad(loss, current)
            pushes[term.name] = [-gradient[i, :length] for i, length in enumerate(rows.lengths())]
        return pushes

    def apply(self, tally: Tally) -> StepStats:
        """Clips the accumulated gradient and moves the weights, unless something is not finite."""
        rate = learning_rate(self.steps_done, self.total_steps, self.settings)
        loss = sum(tally.term_losses.values())
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.max_grad_norm).item()
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if not skipped:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.steps_done += 1
        return StepStats(
            loss=loss,
            term_losses=tally.term_losses,
            grad_norm=norm,
            learning_rate=rate,
            skipped=skipped,
            logprobs=tally.logprobs,
            entropy=tally.entropy,
            pushes=tally.pushes,
        )

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The policy's parameters by their Hugging Face names."""
        yield from self.policy.named_parameters()

    def save(self, folder: Path) -> None:
        """`policy/` and the optimizer's state."""
        save_model(self.policy, self.tokenizer, folder / "policy")
        tensors, layout = flatten_optimizer(self.optimizer.state_dict())
        save_file(tensors, folder / "optimizer.safetensors")
        state = {"steps_done": self.steps_done, "optimizer": layout}
        (folder / "learner.json").write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Weights, optimizer and the place in the schedule, as they were."""
        saved = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=self.policy.dtype)
        self.policy.load_state_dict(saved.state_dict())
        state = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "optimizer.safetensors")
        self.optimizer.load_state_dict(unflatten_optimizer(tensors, state["optimizer"]))
        self.steps_done = state["steps_done"]

    def close(self) -> None:
        """Holds nothing that needs ending."""

    def _microbatches(self, rows: Batch, units: list[list[int]]) -> list[list[int]]:
        lengths = [len(p) + len(t) for p, t in zip(rows.prompt_ids, rows.token_ids, strict=True)]
        return microbatches(units, lengths, self.limits.tokens_per_microbatch)

    def _forward(self, model: PreTrainedModel, rows: Batch) -> tuple[list[Tensor], list[Tensor]]:
        return score_rows(model, rows.prompt_ids, rows.token_ids, self.temperature, self.limits.pad_multiple)


Factory = Callable[[], LocalLearner]
