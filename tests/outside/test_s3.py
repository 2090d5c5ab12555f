"""Artifacts behind s3://, on a real server that speaks S3: planned by content, published, refused when unreachable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.outside.test_outside import ALONE, fitted, place, to_onnx
from tests.sources.servers import Bucket

from retinue.control.handover import HandOver
from retinue.core.errors import PortfolioError
from retinue.core.plan import Build

pytestmark = pytest.mark.e2e


@pytest.fixture
def opened(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The bucket, with the keys that open it in the environment."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bucket.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bucket.secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield bucket.system()
    s3fs.S3FileSystem.clear_instance_cache()


def test_an_artifact_in_a_bucket_is_known_by_its_content_and_published_from_there(
    tmp_path: Path, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.pipe_file("lake/risk.onnx", to_onnx(fitted()))
    h = place(tmp_path, ALONE.replace("models/risk.onnx", "s3://lake/risk.onnx"))
    outcome = h.apply()
    assert outcome.release == 1, [m.text for m in outcome.models]
    opened.pipe_file("lake/risk.onnx", to_onnx(fitted(shift=0.3)))
    step = next(s for s in h.plan().steps if isinstance(s, Build))
    assert [why.reason for why in step.why] == ["ARTIFACT"]

    h.edit("s3://lake/risk.onnx", "published")
    made, new = h.do(lambda p: p.hand_over("risk", HandOver("s3://lake/risk.onnx", None, {"run": "7"})))
    assert (new, made.format) == (True, "onnx")
    assert h.apply().release == 2
    with pytest.raises(PortfolioError, match="cannot be read"):
        h.do(lambda p: p.hand_over("risk", HandOver("s3://lake/gone.onnx", None, {})))

    h.edit("artifact: published", "artifact: s3://lake/risk.onnx")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PortfolioError, match="cannot be read") as refused:
        h.plan()
    assert "wrong" not in str(refused.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(refused.value.hint)
