"""The rows of a file: which stand already, and whether they follow from the same settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLACE = ("arm", "seed", "budget")  # A comparison takes one row of each.


def find_row(out: Path, asked: Mapping[str, Any]) -> str:
    """Return a sentence that a row stands already; empty where it is to be made.

    Args:
        out: A JSON object a line; may be missing.
        asked: What the row would say of its own settings: :data:`PLACE`, ``settings_hash``, and
            more. Rows from before there was a hash are compared by what they say.

    Raises:
        SystemExit: There is such a row with other settings.
    """
    lines = out.read_text("utf-8").splitlines() if out.exists() else []
    rows = [json.loads(line) for line in lines if line.strip()]
    rows = [row for row in rows if all(row.get(key) == asked[key] for key in PLACE)]
    if not rows:
        return ""
    name = f"{out}: the row of {asked['arm']}, seed {asked['seed']}, {asked['budget']}"
    rows = [row for row in rows if all(row.get(key, one) == one for key, one in asked.items())]
    if not rows:
        raise SystemExit(
            f"{name} stands with other settings; give another --out, or delete that row"
        )
    if any("settings_hash" in row for row in rows):
        return f"{name} stands already"
    return (
        f"{name} stands already, but its settings are unknown: it is from before rows had a "
        "settings_hash; to be sure, give another --out, or delete that row"
    )
