"""MLServer's runtime for the trees, with its adaptive batching; `mlserver start FOLDER` imports it."""

from __future__ import annotations

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from trees import Trees


class Predictor(MLModel):  # type: ignore[misc]
    """Tensors in, tensors out."""

    async def load(self) -> bool:
        """Load the model."""
        self._trees = Trees()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One batch."""
        block = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32)
        answers = self._trees.packed(block)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("Y", answers)])
