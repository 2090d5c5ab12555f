"""A first portfolio of one model that runs: what `retinue init` writes."""

from __future__ import annotations

from pathlib import Path

from retinue.core.errors import UsageError

_PORTFOLIO = """\
portfolio: iris
data:
  flowers: {path: data/iris.csv, key: id}
environments:
  base: {requirements: envs/base.txt}
defaults: {environment: base}
models:
  species: {train: "train:train", data: flowers, task: multiclass, target: species, holdout: {share: 30%},
            features: [sepal_length, sepal_width, petal_length, petal_width], gates: {accuracy: {min: 0.8}}}
"""

_TRAIN = '''\
"""Trains the `species` model. `retinue apply` calls `train`; the rows it gets are without the holdout."""

from retinue_worker import TrainingJob
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def train(job: TrainingJob):
    flowers = job.data["flowers"].to_pandas()
    classifier = LogisticRegression(C=job.params.get("C", 1.0))
    model = make_pipeline(SimpleImputer(), StandardScaler(), classifier)  # a request may leave a field out
    return model.fit(flowers[job.features], flowers[job.target])
'''

_GITIGNORE = ".retinue/\n"
_REQUIREMENTS = "scikit-learn\npandas\n"
_COLUMNS = "id,sepal_length,sepal_width,petal_length,petal_width,species"


def scaffold(folder: Path) -> list[Path]:
    """Writes a portfolio of one model into `folder`: portfolio, training code, requirements and 150 rows of data.

    The state folder is added to `.gitignore`, which may be there. Returns the files written.
    Raises UsageError, having written nothing, if one of the others exists.
    """
    contents = {
        folder / "portfolio.yaml": _PORTFOLIO,
        folder / "train.py": _TRAIN,
        folder / "envs" / "base.txt": _REQUIREMENTS,
        folder / "data" / "iris.csv": _iris(),
    }
    there = [file for file in contents if file.exists()]
    if there:
        names = ", ".join(str(file.relative_to(folder)) for file in there)
        raise UsageError(f"{names} is already in {folder}", hint="Choose an empty folder; nothing was written.")
    ignore = folder / ".gitignore"
    before = ignore.read_text(encoding="utf-8") if ignore.is_file() else ""
    if _GITIGNORE not in before.splitlines(keepends=True):
        contents[ignore] = before + ("" if before.endswith("\n") or not before else "\n") + _GITIGNORE
    for file, text in contents.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror}", hint="Choose another folder.") from error
    return list(contents)


def _iris() -> str:
    """The iris flowers as csv, from scikit-learn's own copy."""
    from sklearn.datasets import load_iris  # heavy, needed only here

    iris = load_iris()
    rows = [
        f"{number},{','.join(f'{value:g}' for value in values)},{iris.target_names[label]}"
        for number, (values, label) in enumerate(zip(iris.data, iris.target, strict=True), start=1)
    ]
    return "\n".join([_COLUMNS, *rows]) + "\n"
