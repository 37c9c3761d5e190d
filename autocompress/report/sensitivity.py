"""Which layers matter: what the stored evaluations say about each density.

Observational, not a scan: the search moved many densities at once and spent most evaluations
where the energy is low, under a budget that makes others grow when one shrinks. A strong slope
is a hint, a weak one proves nothing.
"""

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray

from autocompress.report.frames import trials_frame

Floats = NDArray[np.float64]

FEWEST = 10  # Evaluations from which a fit is tried.
TAIL = 0.05  # Energies beyond these quantiles count as the quantile: some trainings diverge.
PENALTIES = np.logspace(-3, 3, 13)  # Of the ridge, relative to the mean variance along it.
BLOCKS = 5  # Neighbours in a walk resemble each other: whole stretches of it are left out.
SENSITIVITY_COLUMNS = {
    "density": "str",
    "round": "Int64",
    "trials": "Int64",
    "lowest": "float64",
    "highest": "float64",
    "correlation": "float64",
    "per_halving": "float64",
    "explained": "float64",
}


def sensitivity_frame(study: optuna.Study, round_number: int | None = None) -> pd.DataFrame:
    """Return how the energy of fast trials went with each density, the most harmful first.

    Only different candidates which started from one base model are compared. The columns:

    - ``density``: ``filters/GROUP`` or ``columns/LAYER``;
    - ``round``, ``trials``: where it was seen, and in how many different candidates;
    - ``lowest``, ``highest``: the range seen;
    - ``correlation``: Spearman's rank correlation of density and energy; below 0 when keeping
      more goes with less energy; NaN for a density that did not vary;
    - ``per_halving``: change of the energy when the density is halved and the others stay, from
      a ridge regression of the energy on the logarithms of all densities. Energies are cut at
      their 5 % and 95 % quantiles; the penalty is the one that predicts best each fifth of the
      search from the other four;
    - ``explained``: share of the energy's variance that this predicts, the same in every row;
      near 0 or below, the slopes mean nothing.

    Args:
        study: A study of this package.
        round_number: The round; None for the last one with enough evaluations.
    """
    return measure_sensitivity(trials_frame(study), round_number)


def measure_sensitivity(frame: pd.DataFrame, round_number: int | None = None) -> pd.DataFrame:
    """Return what :func:`sensitivity_frame` does, from the rows of ``trials_frame``."""
    rows = _choose_rows(frame, round_number)
    names = [name for name in map(str, frame.columns) if "/" in name]
    seen = rows[names].to_numpy(dtype=np.float64)
    varied = np.zeros(len(names), dtype=np.bool_)
    if len(rows) >= FEWEST:
        varied = (np.isfinite(seen) & (seen > 0)).all(axis=0) & (np.ptp(seen, axis=0) > 0)
    energy = rows["energy"].to_numpy(dtype=np.float64)
    correlation, slope = np.full((2, len(names)), np.nan)
    explained = np.nan
    if varied.any() and np.ptp(energy) > 0:
        low, high = np.quantile(energy, (TAIL, 1 - TAIL))
        correlation[varied] = _correlate_ranks(seen[:, varied], energy)
        slope[varied], explained = _fit_ridge(
            -np.log2(seen[:, varied]), np.clip(energy, low, high)
        )
    found = pd.DataFrame(
        {
            "density": names,
            "round": rows["round"].iloc[0] if len(rows) else pd.NA,
            "trials": len(rows),
            "lowest": seen.min(axis=0) if len(rows) else np.nan,
            "highest": seen.max(axis=0) if len(rows) else np.nan,
            "correlation": correlation,
            "per_halving": slope,
            "explained": explained,
        },
        columns=list(SENSITIVITY_COLUMNS),
    ).astype(SENSITIVITY_COLUMNS)
    return found.sort_values("per_halving", ascending=False, kind="stable", ignore_index=True)


def _choose_rows(frame: pd.DataFrame, round_number: int | None) -> pd.DataFrame:
    """Return the fast trials of one base: the last of the round, or the last with enough."""
    chosen = (frame["stage"] == "fast") & (frame["state"] == "complete")
    rows = frame[chosen.to_numpy() & np.isfinite(frame["energy"].to_numpy())]
    rows = rows.sort_values("seq", kind="stable").drop_duplicates(["round", "base", "key"])
    if round_number is not None:
        rows = rows[(rows["round"] == round_number).fillna(value=False).to_numpy(dtype=np.bool_)]
    groups = [part for _, part in rows.groupby(["round", "base"], sort=False, dropna=False)]
    enough = [part for part in groups if len(part) >= FEWEST]
    return (enough or groups or [rows])[-1]


def _correlate_ranks(seen: Floats, energy: Floats) -> Floats:
    """Return Spearman's correlation of each column of ``seen`` with ``energy``."""
    ranks = pd.DataFrame(seen).rank().to_numpy(dtype=np.float64)
    other = pd.Series(energy).rank().to_numpy(dtype=np.float64)
    ranks, other = ranks - ranks.mean(axis=0), other - other.mean()
    return (ranks * other[:, None]).sum(axis=0) / np.sqrt(
        (ranks**2).sum(axis=0) * (other**2).sum()
    )


def _fit_ridge(features: Floats, target: Floats) -> tuple[Floats, float]:
    """Return the slopes of a ridge regression and the share of variance that it predicts.

    The features are not scaled, so what varied little can have little slope.

    Args:
        features: Shape (rows, features), in the order of the decisions.
        target: Shape (rows,); it varies.

    Returns:
        Slopes of shape (features,), in units of ``target`` per unit of a feature; and one minus
        the error of the blocks left out over the variance, at the penalty where that is least.
    """
    block = np.arange(len(target)) * BLOCKS // len(target)
    errors = np.zeros(len(PENALTIES))
    for out in range(BLOCKS):
        kept, left_out = block != out, block == out
        slopes = _solve_ridge(features[kept], target[kept])
        shift = features[left_out] - features[kept].mean(axis=0)
        guess = target[kept].mean() + shift @ slopes
        errors += ((target[left_out, None] - guess) ** 2).sum(axis=0) / len(target)
    best = int(errors.argmin())
    return _solve_ridge(features, target)[:, best], float(1 - errors[best] / target.var())


def _solve_ridge(features: Floats, target: Floats) -> Floats:
    """Return the slopes for each penalty: shape (features, penalties)."""
    centred = features - features.mean(axis=0)
    sizes, directions = np.linalg.eigh(centred.T @ centred)
    along = directions.T @ (centred.T @ (target - target.mean()))
    penalties = PENALTIES * max(float(sizes.mean()), 1e-12)
    return directions @ (along[:, None] / (np.maximum(sizes, 0.0)[:, None] + penalties))
