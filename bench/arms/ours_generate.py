"""Our sampler alone."""

from __future__ import annotations

import copy
import time

from bench.jobs import Job, Measured, Place
from bench.workloads import prompt_texts

from upweight.chat import stop_ids
from upweight.compose import make_sampler, quiet_libraries
from upweight.config import ModelConfig
from upweight.models.load import load_model
from upweight.types import Request, SampleKey, SamplingParams


def run(job: Job, place: Place) -> Measured:
    """Seconds for all rows of the workload, from requests to completions; every run draws other ones."""
    quiet_libraries()
    model, tokenizer = load_model(ModelConfig(path=str(place.model), dtype=job.dtype, device="cpu"))  # type: ignore[arg-type]
    stops = frozenset() if job.shape.forced else stop_ids(tokenizer, model.generation_config.eos_token_id)
    sampler = make_sampler(copy.deepcopy(model), tokenizer, stops)
    sampler.load(model.named_parameters(), 0)
    params = SamplingParams(1.0, job.shape.completion_tokens)
    prompts = [tuple(tokenizer(text)["input_ids"]) for text in prompt_texts(job.shape.prompts, job.shape.prompt_tokens)]
    seconds, tokens = [], []
    for turn in range(job.steps):
        requests = [
            Request(prompt, SampleKey(job.repeat, turn, draw, member), params)
            for draw, prompt in enumerate(prompts)
            for member in range(job.shape.group_size)
        ]
        start = time.perf_counter()
        completions = list(sampler.sample(requests))
        seconds.append(time.perf_counter() - start)
        tokens.append(sum(len(completion.token_ids) for completion in completions))
    return Measured(seconds, tokens)
