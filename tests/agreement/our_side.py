"""Our number for a batch: the learner's loss and gradient for one optimizer step of a method."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

from torch import Tensor
from transformers import PreTrainedModel

from tests.agreement.cases import Case, Number, flat
from upweight.algorithms import Algorithm
from upweight.config import OptimizerConfig
from upweight.learners.local import LocalLearner
from upweight.models.networks import Network, PolicyNetwork, RewardNetwork
from upweight.presets import algorithm
from upweight.types import Annotated, annotated
from upweight.update import annotate, weights_of, with_statistics


def number(
    case: Case,
    method: Algorithm,
    *,
    old: bool = False,
    rows: Sequence[int] | None = None,
    reward_model: PreTrainedModel | None = None,
) -> Number:
    """One optimizer step on all rows, or on some after the batch was annotated as a whole.

    With `old`, under the case's old log-probs instead of the policy's own.
    """
    learner = learner_of(case, method, reward_model)
    batch = annotate(learner, method, case.batch)
    if old:
        batch = annotated(batch, {"old_logprobs": case.old_logprobs})
    step = with_statistics(learner, method, batch if rows is None else batch.select(rows))
    stats = learner.step(step, weights_of(method, step))
    return Number(stats.loss, flat(parameter.grad for parameter in learner.network.model.parameters()))


def scored(case: Case, method: Algorithm) -> Annotated:
    """The rows with their advantages."""
    return annotate(learner_of(case, method), method, case.batch)


def current_logprobs(case: Case) -> list[Tensor]:
    """The policy's own log-probs."""
    return learner_of(case, algorithm("sft")).score(case.batch, "policy")


def reference_point(case: Case, method: Algorithm) -> float:
    """KTO's reference point of all rows."""
    learner = learner_of(case, method)
    rows = with_statistics(learner, method, annotate(learner, method, case.batch))
    return rows.row_columns["reference_point"][0].item()


def learner_of(case: Case, method: Algorithm, reward_model: PreTrainedModel | None = None) -> LocalLearner:
    """A learner that never clips its gradient."""
    if reward_model is not None:
        network: Network = RewardNetwork(deepcopy(reward_model), case.tokenizer)
    else:
        network = PolicyNetwork(deepcopy(case.policy), case.tokenizer, temperature=case.temperature)
    reference = PolicyNetwork(case.reference, case.tokenizer, temperature=case.temperature)
    optimizers = {"policy": OptimizerConfig(max_grad_norm=1e9)}
    return LocalLearner(network, method.active_terms(), reference=reference, optimizers=optimizers)
