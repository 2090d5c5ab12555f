"""`retinue init --from-model` refuses what is no model, and writes nothing then."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from tests.outside.test_outside import fitted, to_onnx

from retinue.core.errors import UsageError
from retinue.loader.from_model import scaffold_model


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("gone.onnx", None, "there is no file"),
        ("m.onnx", b"", "is empty"),
        ("m.onnx", b"garbage", "no ONNX model"),
        ("m.onnx", to_onnx(fitted())[:150], "no ONNX model"),
        ("m.onnx", pickle.dumps([1]), "is a pickle"),
        ("m.joblib", b"x", "is a pickle"),
        ("m.bin", b"x", "has no known ending"),
        ("m.skops", b"PK torn", "no skops file"),
        ("m.txt", b"hello", "not a whole LightGBM model"),
        ("m.ubj", b"hello", "not a whole XGBoost model"),
        ("m.cbm", b"CBM1 torn", "not a catboost model"),
    ],
)
def test_no_portfolio_is_made_of_what_is_no_model(tmp_path: Path, name: str, data: bytes | None, said: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=said):
        scaffold_model(tmp_path / "new", tmp_path / name)
    assert not (tmp_path / "new").exists()


def test_a_portfolio_that_is_there_is_left_alone_and_the_types_are_the_graphs(tmp_path: Path) -> None:
    (tmp_path / "my risk (v2).onnx").write_bytes(to_onnx(fitted()))
    scaffold_model(tmp_path, tmp_path / "my risk (v2).onnx")
    text = (tmp_path / "portfolio.yaml").read_text()
    assert text.splitlines() == [
        "portfolio: my-risk-v2",
        "models:",
        "  my-risk-v2:",
        '    artifact: "my risk (v2).onnx"',
        "    task: binary",
        "    features: {x0: FP64, x1: FP64}",
        "    classes: [0, 1]",
    ]
    with pytest.raises(UsageError, match="already in"):
        scaffold_model(tmp_path, tmp_path / "my risk (v2).onnx")
    assert (tmp_path / "portfolio.yaml").read_text() == text
