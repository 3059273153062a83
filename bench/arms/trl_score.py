"""TRL's pass for log-probs alone, over the same rows as ours: padded, every prompt in each of its rows."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import replace

import torch
from bench.arms.trl_setup import make_trainer, step_settings
from bench.arms.trl_step import letters
from bench.jobs import Job, Measured, Place
from bench.workloads import completion_lengths, prompt_texts


@torch.no_grad()
def run(job: Job, place: Place) -> Measured:
    """Seconds for the log-probs of all completions."""
    texts = prompt_texts(job.shape.prompts, job.shape.prompt_tokens, job.repeat)
    settings = step_settings(replace(job, warmup=0, measured=1))
    trainer = make_trainer(place, [{"prompt": text} for text in texts], letters, settings, [])
    draw = torch.Generator().manual_seed(job.repeat)
    prompts = torch.tensor(trainer.processing_class(text=texts)["input_ids"])
    prompts = prompts.repeat_interleave(job.shape.group_size, dim=0)
    lengths = torch.tensor(completion_lengths(job.shape))
    width = int(lengths.max())
    completions = torch.randint(3, 77, (len(lengths), width), generator=draw)
    visible = torch.cat([torch.ones_like(prompts), (torch.arange(width) < lengths[:, None]).long()], dim=1)
    ids = torch.cat([prompts, completions], dim=1)
    seconds = []
    for _ in range(job.steps):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if job.dtype == "bfloat16" else nullcontext():
            trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, visible, width, batch_size=job.options.get("micro")
            )
        seconds.append(time.perf_counter() - start)
    return Measured(seconds, [int(lengths.sum())] * job.steps)
