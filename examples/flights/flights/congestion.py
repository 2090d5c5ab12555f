"""How late do departures leave this airport in this hour, on average?"""

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from retinue_worker import TrainingJob


def train(job: TrainingJob):
    df = job.data["congestion_hours"].to_pandas()
    numbers = [f for f in job.features if f != "origin"]
    columns = ColumnTransformer(
        [
            ("origin", OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["origin"]),
            ("numbers", "passthrough", numbers),
        ]
    )
    trees = HistGradientBoostingRegressor(**job.params, random_state=job.seed, early_stopping=False)
    model = Pipeline([("columns", columns), ("trees", trees)])
    return model.fit(df[list(job.features)], df[job.target])
