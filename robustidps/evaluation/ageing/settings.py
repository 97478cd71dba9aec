"""What an ageing study can be told."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustidps.settings import config_error

__all__ = ["AgeingSettings", "LoopSettings"]


class LoopSettings(BaseModel):
    """The loop's parameters. Chosen on the scenario `configs/ageing/development.yaml`, not on the one reported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    random_share: float = Field(default=0.5, ge=0.1, le=1, description="share of a day's labels bought at random")
    window_days: int = Field(default=7, ge=1, le=60, description="days whose traffic is compared with the profile")
    psi: float = Field(default=0.02, gt=0, le=10, description="PSI above which a feature counts as drifted")
    drifted_share: float = Field(
        default=0.1, gt=0, le=1, description="share of drifted features that makes a window odd"
    )
    windows: int = Field(default=5, ge=1, le=60, description="windows, one a day, that are looked at together")
    odd_windows: int = Field(default=3, ge=1, le=60, description="odd ones among them that call for a challenger")
    reference_days: int = Field(default=14, ge=1, le=366, description="days before training that the profile describes")
    decline: float = Field(default=1.0, gt=0, le=10, description="standard errors of decline that call for one as well")
    exam_share: float = Field(default=0.35, gt=0, lt=1, description="share of fresh campaigns that the rules judge on")
    exam_days: int = Field(
        default=14, ge=1, le=366, description="how far back the exam's labels go, or further where they are too few"
    )
    rest_days: int = Field(default=3, ge=1, le=60, description="days between two challengers")


class AgeingSettings(BaseModel):
    """How traffic is walked through, and what labels there are. A day is 24 hours from midnight UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start_days: int = Field(default=14, ge=2, le=366, description="days that the first model's labels come from")
    start_labels: int = Field(default=3000, ge=50, le=1_000_000, description="labels that the first model is given")
    labels_per_day: int = Field(default=60, ge=1, le=1_000_000, description="labels that can be bought a day")
    delay_days: int = Field(default=3, ge=1, le=60, description="days from buying a label to having it")
    slot_days: int = Field(default=7, ge=1, le=90, description="days that one point of the curve sums up")
    validation: float = Field(default=0.2, gt=0, lt=0.9, description="share of labels that stop training and calibrate")
    alert_budget: float = Field(
        default=1e-2,
        ge=0,
        le=1,
        description="false alerts per benign flow, for thresholds; a few hundred rows can't resolve less",
    )
    resamples: int = Field(default=500, ge=100, le=10_000, description="bootstrap resamples behind an interval")
    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of training and of random choices")
    threads: int = Field(default=1, ge=1, le=64, description="CPU threads for training")
    rules: str = Field(default="ageing", description="rule set in configs/promotion that judges the loop's challengers")
    loop: LoopSettings = LoopSettings()

    @property
    def first_day(self) -> int:
        """The first day that is scored: when the labels of the start have arrived."""
        return self.start_days + self.delay_days

    @classmethod
    def make(cls, **values: Any) -> AgeingSettings:
        """Settings from keywords.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise config_error(error, "ageing settings", cls) from None
