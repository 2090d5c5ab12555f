"""Will this departure arrive more than 15 minutes late?"""

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from retinue_worker import TrainingJob


def train(job: TrainingJob):
    df = job.data["departures"].to_pandas()
    numbers = [f for f in job.features if f != "dest"]
    columns = ColumnTransformer(
        [
            ("dest", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["dest"]),
            ("numbers", "passthrough", numbers),
        ]
    )
    trees = HistGradientBoostingClassifier(**job.params, max_leaf_nodes=15, random_state=job.seed, early_stopping=False)
    model = Pipeline([("columns", columns), ("trees", trees)])
    job.log(rows=len(df), share_late=float(df[job.target].mean()))
    return model.fit(df[list(job.features)], df[job.target].astype(bool))
