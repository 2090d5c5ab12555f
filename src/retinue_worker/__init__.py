"""What runs inside a model's environment: standard library only, the rest imported late."""

from retinue_worker.job import TrainingJob

__all__ = ["TrainingJob"]
