"""Choose among the trials of a study."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from autocompress.report.frames import Direction


def select_rows(
    frame: pd.DataFrame,
    *,
    limits: Mapping[str, float],
    worst_metric: float | None = None,
    direction: Direction = "maximize",
    stage: str | None = None,
) -> pd.DataFrame:
    """Return the feasible rows within ``limits``, the best validation metric first.

    Args:
        frame: What ``trials_frame`` gave.
        limits: The most allowed of each column, such as ``macs``.
        worst_metric: The worst validation metric allowed.
        direction: In which direction the metric is better.
        stage: ``fast``, ``round`` or ``full`` looks at these only; None prefers finished
            models, and takes the others when no finished one qualifies.
    """
    chosen = frame["feasible"].fillna(value=False).to_numpy(dtype=np.bool_)
    bounds = [(name, limit, False) for name, limit in limits.items()]
    if worst_metric is not None:
        bounds.append(("val_metric", worst_metric, direction == "maximize"))
    for name, limit, at_least in bounds:
        values = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        chosen = chosen & (values >= limit if at_least else values <= limit)
    rows = frame[chosen & frame["val_metric"].notna().to_numpy()]
    finished = rows["stage"] == "full"
    if stage is not None:
        rows = rows[rows["stage"] == stage]
    elif finished.any():
        rows = rows[finished]
    return rows.sort_values(
        ["val_metric", "weights"], ascending=[direction == "minimize", True], kind="stable"
    )
