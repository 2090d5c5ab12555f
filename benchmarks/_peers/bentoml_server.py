"""BentoML with one worker: `bentoml serve bentoml_server:Predictor`."""

from __future__ import annotations

from typing import Any

import bentoml
from trees import Trees


@bentoml.service(workers=1, metrics={"enabled": True}, logging={"access": {"enabled": False}})
class Predictor:
    """Rows in, answers out."""

    def __init__(self) -> None:
        self._trees = Trees()

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, row: dict[str, float]) -> dict[str, Any]:
        """One row."""
        return {"y": self._trees.rows([row])[0]}
