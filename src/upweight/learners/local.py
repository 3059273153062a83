"""The in-process learner: a network, a reference if wanted, and an AdamW for each part of the network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from upweight.algorithms import Term
from upweight.checkpoint import flatten_optimizer, unflatten_optimizer
from upweight.config import LearnerConfig, OptimizerConfig
from upweight.learners.microbatches import cut_rows, units_of
from upweight.learners.objective import differentiate, total_pushes
from upweight.learners.port import Which
from upweight.learners.schedule import learning_rate
from upweight.models.networks import Network, PolicyNetwork
from upweight.phases import PASS_OF, count, phase
from upweight.types import Annotated, Batch, StepStats


@dataclass(frozen=True)
class Tally:
    """What the backward pass over some rows yields beside the gradient; columns have room for every row."""

    rows: int
    term_losses: dict[str, float] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    pushes: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(
        self,
        index: Sequence[int],
        losses: Mapping[str, float],
        outputs: Mapping[str, Sequence[Tensor]],
        pushes: Mapping[str, Sequence[Tensor]],
    ) -> None:
        """Takes in what was found for the rows at `index`."""
        for name, loss in losses.items():
            self.term_losses[name] = self.term_losses.get(name, 0.0) + loss
        for whole, found in ((self.outputs, outputs), (self.pushes, pushes)):
            for name, column in found.items():
                room = whole.setdefault(name, [torch.empty(0)] * self.rows)
                for row, values in zip(index, column, strict=True):
                    room[row] = values.detach().cpu()


class LocalLearner:
    """One process. `settings` is for the policy, or by name for each part of the network ("policy", "critic").

    `total_steps` is the number of optimizer steps that the schedule spans. A reference that will move is saved with
    the checkpoint.
    """

    def __init__(
        self,
        network: Network,
        terms: Sequence[Term],
        *,
        reference: PolicyNetwork | None = None,
        reference_moves: bool = False,
        total_steps: int = 1,
        optimizers: Mapping[str, OptimizerConfig] | None = None,
        limits: LearnerConfig | None = None,
    ) -> None:
        self.network, self.reference, self.reference_moves = network, reference, reference_moves
        self.terms = tuple(terms)
        self.temperature = getattr(network, "temperature", 1.0)
        self.total_steps = total_steps
        self.limits = limits or LearnerConfig()
        self.steps_done = 0
        self.settings = {name: (optimizers or {}).get(name, OptimizerConfig()) for name in network.parameters()}
        self.optimizers = {
            name: torch.optim.AdamW(
                parameters,
                lr=self.settings[name].lr,
                betas=self.settings[name].betas,
                eps=self.settings[name].eps,
                weight_decay=self.settings[name].weight_decay,
                fused=True,
            )
            for name, parameters in network.parameters().items()
        }

    @torch.no_grad()
    def score(self, rows: Batch, which: Which) -> list[Tensor]:
        """One number for each completion token of the rows."""
        scored: list[Tensor] = [torch.empty(0)] * len(rows)
        network = self._network(which)
        for index in self._microbatches(rows, units_of(rows.unit_ids.tolist())):
            piece = rows.select(index)
            for row, values in zip(index, self._score(network, piece, which), strict=True):
                scored[row] = values.cpu()
            count(PASS_OF[which], processed=network.tokens.processed, useful=network.tokens.useful)
        return scored

    def _network(self, which: Which) -> Network:
        network = self.reference if which == "reference" else self.network
        if network is None or (which != "reward" and not isinstance(network, PolicyNetwork)):
            raise ValueError(f"this learner was built without a {which}")
        return network

    def _score(self, network: Network, rows: Batch, which: Which) -> list[Tensor]:
        if not isinstance(network, PolicyNetwork):
            return network.outputs(rows)["scores"]
        return network.values(rows) if which == "critic" else network.logprobs(rows)

    def step(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]]) -> StepStats:
        """One optimizer step: gradient of the whole step, clip, AdamW."""
        with phase("forward_backward"):
            self.zero_grad()
            tally = self.backward(rows, weights, units_of(rows.unit_ids.tolist()))
        with phase("optimizer"):
            return self.apply(tally)

    def zero_grad(self) -> None:
        """Forgets the gradient but keeps its memory."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=False)

    def backward(self, rows: Annotated, weights: Mapping[str, Sequence[Tensor]], units: list[list[int]]) -> Tally:
        """Adds the gradient of the given units of a step, one micro-batch after the other."""
        tally = Tally(len(rows))
        for index in self._microbatches(rows, units):
            piece = rows.select(index)
            outputs = self.network.outputs(piece)
            shares = {name: [column[i] for i in index] for name, column in weights.items()}
            losses, pushes = differentiate(self.terms, piece, outputs, shares)
            total = total_pushes(pushes)
            torch.autograd.backward([torch.cat(outputs[name]) for name in total], [-push for push in total.values()])
            tally.add(index, losses, outputs, {name: _shown(by_output) for name, by_output in pushes.items()})
            tokens = self.network.tokens
            count("forward_backward", processed=tokens.processed, useful=tokens.useful)
        return tally

    def apply(self, tally: Tally) -> StepStats:
        """Clips the accumulated gradients and moves the weights, unless something is not finite."""
        loss = sum(tally.term_losses.values())
        norms = {
            name: torch.nn.utils.clip_grad_norm_(parameters, self.settings[name].max_grad_norm).item()
            for name, parameters in self.network.parameters().items()
        }
        rates = {name: learning_rate(self.steps_done, self.total_steps, own) for name, own in self.settings.items()}
        skipped = not all(map(math.isfinite, (loss, *norms.values())))
        if not skipped:
            for name, optimizer in self.optimizers.items():
                for group in optimizer.param_groups:
                    group["lr"] = rates[name]
                optimizer.step()
        self.steps_done += 1
        return StepStats(
            loss=loss,
            term_losses=tally.term_losses,
            grad_norms=norms,
            learning_rate=rates["policy"],
            skipped=skipped,
            outputs=tally.outputs,
            pushes=tally.pushes,
        )

    @torch.no_grad()
    def move_reference(self, mix: float) -> None:
        """reference = mix * policy + (1 - mix) * reference."""
        if self.reference is None:
            raise ValueError("this learner was built without a reference model")
        pairs = zip(self.reference.model.parameters(), self.network.model.parameters(), strict=True)
        for old, new in pairs:
            old.lerp_(new, mix)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The trained model's parameters by their Hugging Face names."""
        yield from self.network.model.named_parameters()

    def save(self, folder: Path) -> None:
        """`policy/`, the critic, a moving reference and the optimizers' states."""
        self.network.save(folder)
        if self.reference is not None and self.reference_moves:
            self.reference.save(folder / "reference")
        layouts = {}
        for name, optimizer in self.optimizers.items():
            tensors, layouts[name] = flatten_optimizer(optimizer.state_dict())
            save_file(tensors, folder / f"optimizer-{name}.safetensors")
        state = {"steps_done": self.steps_done, "optimizers": layouts}
        (folder / "learner.json").write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Weights, optimizers, reference and the place in the schedule, as they were."""
        self.network.load(folder)
        if self.reference is not None and self.reference_moves:
            self.reference.load(folder / "reference")
        state = json.loads((folder / "learner.json").read_text(encoding="utf-8"))
        for name, optimizer in self.optimizers.items():
            tensors = load_file(folder / f"optimizer-{name}.safetensors")
            optimizer.load_state_dict(unflatten_optimizer(tensors, state["optimizers"][name]))
        self.steps_done = state["steps_done"]

    def close(self) -> None:
        """Holds nothing that needs ending."""

    def _microbatches(self, rows: Batch, units: list[list[int]]) -> list[list[int]]:
        return cut_rows(rows, units, self.network.layout, self.limits.tokens_per_microbatch)


def _shown(by_output: Mapping[str, list[Tensor]]) -> list[Tensor]:
    """A term's push as it is recorded: that on the log-probs, or else on the output that it reads."""
    return by_output["logprobs"] if "logprobs" in by_output else next(iter(by_output.values()))


Factory = Callable[[], LocalLearner]
