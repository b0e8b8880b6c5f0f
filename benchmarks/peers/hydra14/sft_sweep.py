"""A plain script for Hydra 1.4's Optuna sweeper: TRL's trainer, once for each trial, in one process.

It imports nothing of lowrung, and runs in the environment that `benchmarks.peers.environment` makes.
"""

import json
from pathlib import Path
from typing import Any

import hydra
from datasets import load_dataset
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer


@hydra.main(version_base=None, config_path=".", config_name="config")
def main(config: DictConfig) -> float:
    """Trains, saves, and returns the last step's loss."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    sft: Any = OmegaConf.to_container(config.sft)
    lora: Any = OmegaConf.to_container(config.lora)
    trainer = SFTTrainer(
        model=config.model,
        args=SFTConfig(output_dir=str(folder / "trained"), **sft),
        train_dataset=load_dataset(config.rows)["train"],
        peft_config=LoraConfig(**lora),
    )
    trainer.train()
    trainer.save_model()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    record = {"learning_rate": config.sft.learning_rate, "losses": losses}
    (folder / "losses.json").write_text(json.dumps(record), encoding="utf-8")
    return float(losses[-1])


if __name__ == "__main__":
    main()
