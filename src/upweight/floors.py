"""The least time that each phase of a step could take on this machine: arithmetic / rate, or bytes / bandwidth.

With N matmul parameters (the head included, looked-up embeddings not), b bytes for each in the sampler, F flops a
second at the shape and type in use, and W bytes a second:

    prefill             2 N tokens / F
    decode              sum over steps of max((N b + bytes of keys and values read) / W, 2 N live rows / F)
    forward, backward   6 N tokens / F
    one more pass       2 N tokens / F
    optimizer           28 bytes a parameter / W, each step

Tokens are the useful ones: a prompt once for its group, no padding, nothing after the end of a completion.
"""

from __future__ import annotations

from dataclasses import dataclass

from upweight.ceilings import Ceilings
from upweight.phases import Clock, DecodeStep
from upweight.sizes import ModelSize, kv_bytes

ADAMW_BYTES = 28  # weight, gradient and two moments read, weight and moments written, 4 bytes each


@dataclass(frozen=True)
class Floors:
    """What the floors of a run follow from.

    `size` is the policy's, its `bytes_per_number` those of the sampler. `sampler_dtype` and `learner_dtype` name the
    types that products are computed in. `critic` says whether a trunk of its own is trained beside the policy; a
    `scorer` is a reward model, which has no output head.
    """

    ceilings: Ceilings
    size: ModelSize
    sampler_dtype: str
    learner_dtype: str
    critic: bool = False
    scorer: bool = False

    def seconds(self, name: str, clock: Clock) -> float | None:
        """The floor of a phase for what the clock has counted. None for a phase without one: its work is no matmul."""
        if name == "decode":
            return self.decode(clock.decode_steps) if clock.decode_steps else None
        if name == "optimizer":
            return clock.entered.get(name, 0) * self.optimizer()
        return self.products(name, clock.tokens[name].useful) if name in clock.tokens else None

    def products(self, name: str, tokens: float) -> float | None:
        """The floor of a phase that takes whole sequences through a model."""
        flops = self.ceilings.training_flops
        policy = self.size.trunk_matmul_parameters if self.scorer else self.size.matmul_parameters
        critic = self.size.trunk_matmul_parameters
        trained = policy + (critic if self.critic else 0)
        work = {
            "prefill": 2 * self.size.matmul_parameters / flops[self.sampler_dtype],
            "forward_backward": 6 * trained / flops[self.learner_dtype],
            "old_pass": 2 * policy / flops[self.learner_dtype],
            "ref_pass": 2 * policy / flops[self.learner_dtype],
            "critic_pass": 2 * critic / flops[self.learner_dtype],
        }
        return tokens * work[name] if name in work else None

    def decode(self, steps: list[DecodeStep]) -> float:
        """The floor of decoding: each step reads the weights and its cache once, or computes for that long."""
        bandwidth, flops = self.ceilings.bandwidth, self.ceilings.decode_flops[self.sampler_dtype]
        parameters, cached = self.size.matmul_parameters, kv_bytes(self.size)
        return sum(
            max(
                (parameters * self.size.bytes_per_number + step.kv_tokens * cached) / bandwidth,
                2 * parameters * step.live_rows / flops,
            )
            for step in steps
        )

    def optimizer(self) -> float:
        """The floor of one optimizer step over all that is trained."""
        policy = self.size.trunk_parameters if self.scorer else self.size.parameters
        return ADAMW_BYTES * (policy + (self.size.trunk_parameters if self.critic else 0)) / self.ceilings.bandwidth
