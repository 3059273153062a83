"""`generate` of transformers alone: inference mode, SDPA attention, its own cache, no top-k or top-p."""

from __future__ import annotations

import time

import torch
from bench.jobs import Job, Measured, Place
from bench.workloads import prompt_texts
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


@torch.inference_mode()
def run(job: Job, place: Place) -> Measured:
    """Seconds for all rows of the workload; a finished row goes on as padding, which is not counted."""
    tokenizer = AutoTokenizer.from_pretrained(place.model)
    model = AutoModelForCausalLM.from_pretrained(
        place.model, dtype=getattr(torch, job.dtype), attn_implementation="sdpa"
    ).eval()
    eos, pad, shape = tokenizer.eos_token_id, tokenizer.pad_token_id, job.shape
    # A model's own generation config fills in what is None here, so that EOS has to go from there too.
    model.generation_config.eos_token_id = None if shape.forced else eos
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=shape.completion_tokens,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=pad,
    )
    ids = torch.tensor(tokenizer(prompt_texts(shape.prompts, shape.prompt_tokens))["input_ids"])
    ids = ids.repeat_interleave(shape.group_size, dim=0)
    torch.manual_seed(job.repeat)
    seconds, tokens = [], []
    for _ in range(job.steps):
        start = time.perf_counter()
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        seconds.append(time.perf_counter() - start)
        drawn = output[:, ids.shape[1] :]
        # Up to and with the first EOS, or all of it where EOS ends nothing.
        ended = (drawn == eos).int().cumsum(-1).cumsum(-1) > 1
        tokens.append(drawn.numel() if shape.forced else int((~ended).sum()))
    return Measured(seconds, tokens)
