"""The noise process of the families that are diffusion models."""

from typing import Any

from sdcxr.config import TrainConfig
from sdcxr.noise.ddpm import Ddpm, training_process


class DdpmTraining:
    """`noise_process` and `inference_process` of `base.Backbone`, from the schedule of the pipeline's scheduler."""

    scheduler: Any

    def noise_process(self, config: TrainConfig) -> Ddpm:
        process, self.scheduler = training_process(
            self.scheduler, config.prediction_type, config.rescale_betas_zero_snr, config.snr_gamma
        )
        return process

    def inference_process(self) -> Ddpm:
        return training_process(self.scheduler)[0]
