"""Which problems are held out: a property of the problem itself, so that no seed, stage or size can leak one."""

from __future__ import annotations

from hashlib import blake2b

HELDOUT_LIMIT = 2048
_ONE_IN = 8


def content_hash(text: str) -> int:
    """64 bits that depend on nothing but the text; the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def is_heldout(key: str) -> bool:
    """Whether the generated problem with this canonical key belongs to the held-out eighth."""
    return content_hash(key) % _ONE_IN == 0
