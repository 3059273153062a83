"""Which decoder a model gets."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from upweight.models.llama import read_blocks
from upweight.models.proof import agrees
from upweight.samplers.decoder import Decoder
from upweight.samplers.fused import FusedDecoder
from upweight.samplers.general import GeneralDecoder


def decoder_for(model: PreTrainedModel) -> Decoder:
    """The fast decoder where the model's blocks are known and it provably computes the same, else the general one."""
    blocks = read_blocks(model)
    if blocks is not None:
        fused = FusedDecoder(blocks, model.get_output_embeddings())
        if agrees(model, lambda ids: replay(fused, ids)):
            return fused
    return GeneralDecoder(model)


@torch.inference_mode()
def replay(decoder: Decoder, ids: Tensor) -> Tensor:
    """Logits [tokens // 2 + 1, vocabulary] of the last positions of a sequence [tokens], half of it as a prefix."""
    prefix = len(ids) - len(ids) // 2
    decoder.begin(1)
    logits = [decoder.admit([tuple(ids[:prefix].tolist())]).clone()]
    logits += [decoder.advance(token[None]).clone() for token in ids[prefix:]]
    return torch.cat(logits)
