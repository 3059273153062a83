"""Makes the pages that are tables of the code: algorithms, metrics, config keys. Run by `make docs`."""

from __future__ import annotations

from pathlib import Path

from upweight.records.glossary import glossary_markdown
from upweight.rewards.describe import rewards_markdown
from upweight.tables import algorithms_markdown, config_markdown, weights_markdown

DOCS = Path(__file__).resolve().parent
MADE = "<!-- made by docs/build.py; edit the code and run `make docs` -->\n"

ALGORITHMS = """# Algorithms

A method is a row of one table, `PRESETS` in `src/upweight/presets.py`, written in `src/upweight/methods/`: where its
tokens come from, the columns computed of a batch one after the other (shaped rewards, advantages, returns), and
the terms of the loss with their weights. The page stands in the order of a ladder: each rung adds a trick to one below.

A config names a method and may set its options:

```toml
algorithm = { name = "grpo", kl_coef = 0.04, inner_epochs = 2, minibatches = 4 }
```

`inner_epochs` goes over a batch that many times, `minibatches` cuts it into that many optimizer steps each time. A
step or a term that is switched off does not exist: nothing that it would need is computed. `upweight algorithms` prints
this table, `upweight algorithms NAME` one section, and `upweight explain CONFIG` the loss of a config with its numbers.
A method of your own is named `file.py:name`: see [CONTRIBUTING](../CONTRIBUTING.md).

More on [preferences](preferences.md), [PPO](ppo.md) and [group-relative methods](group_methods.md).

## How to read a formula

A formula is the first line of the docstring of the function that computes it, options by their values; code computes
what that function computes, and this page is made from it. A sum runs over trained tokens i,t, rows i or pairs of one
optimizer step, and the factor behind it is the weight that the reduction gives to each:

"""

METRICS = """# Metrics

What every key of `runs/NAME/metrics.jsonl` means. A step writes one line, an evaluation another one with the same
`step`. Keys that start with `time/` or `speed/` read the clock and are the only ones that a resumed run does not
reproduce. `rollout`, `update` and `sync` make up a step, and so do the phases from `prefill` to `other`: see
[speed](speed.md).

```python
import upweight

run = upweight.train("examples/arithmetic/sft.toml", "steps=20")
print([line["train/loss"] for line in run.metrics() if "train/loss" in line])
```

"""

CONFIG = """# Config keys

A config is a TOML file; every key can be set on the command line too, in the same dotted form, and wins over the file:

```
upweight train examples/arithmetic/sft.toml optimizer.lr=1e-3 batch.rows=32 'data.operators=["+", "-"]'
```

A key that does not exist, or a value of the wrong kind, is an error that names the nearest known key. Only choices are
in a config; what follows from them is printed by `upweight plan`.

`algorithm` is a preset's name or a table with the name and [its options](algorithms.md). One task may be written
straight into `[data]`; several are a list of tables, each with a weight:

```toml
[[data.mixture]]
task = "arithmetic"
weight = 3.0

[[data.mixture]]
path = "mine.jsonl"
```

A pipeline's file has these keys for all its stages, and `[[stages]]`: see [commands](commands.md).

"""

REWARDS = """# Reward functions

What a config may name as `rewards.parts.NAME.function`. How parts are put together, and functions of your own, are
told in [rewards](rewards.md). `upweight rewards NAME` prints a section of this page.

"""


def pages() -> dict[str, str]:
    """The text of every page that is made from the code, by its name."""
    made = {
        "algorithms.md": ALGORITHMS + weights_markdown() + "\n" + algorithms_markdown(),
        "metrics.md": METRICS + glossary_markdown(),
        "reward_functions.md": REWARDS + rewards_markdown(),
        "config.md": CONFIG + config_markdown(),
    }
    return {name: f"{MADE}\n{text.rstrip()}\n" for name, text in made.items()}


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
