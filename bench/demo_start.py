"""The model that both arms of the demo task start from: `python -m bench.demo_start SEED FOLDER` imitates it once."""

from __future__ import annotations

import sys
from pathlib import Path

from upweight import api
from upweight.pipeline import load_pipeline, stage_config

DEMO = Path(__file__).resolve().parents[1] / "examples" / "demo.toml"


def main(seed: str, folder: str) -> None:
    """Runs the demo's first stage, or what is left of it."""
    pipeline = load_pipeline(DEMO, ["name=start", f"seed={seed}", f"runs_dir={folder}", "sft.evaluate.every=0"])
    api.train(stage_config(pipeline, pipeline.stages[0]), resume=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
