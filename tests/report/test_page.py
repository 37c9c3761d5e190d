import re
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from autocompress.report.frames import trials_frame
from autocompress.report.page import Content, make_page, write_page
from tests.synthetic import make_study

DENSE = {"val_metric": 0.99, "weights": 40_000.0, "macs": 1e6, "bytes": 160_240.0}


def make_content(trials: int = 30, finished: int = 2, name: str = "digits") -> Content:
    frame = trials_frame(make_study(trials, finished=finished))
    return Content(
        name=name,
        frame=frame,
        direction="maximize",
        metric="accuracy",
        dense=DENSE,
        data_options=" --data data --name mnist",
        folders={trials: "runs/digits/objects/00/00ab"} if finished else {},
    )


def test_a_report_loads_nothing_from_elsewhere() -> None:
    page = make_page(make_content())

    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|@import|url\(", page)


def test_a_report_shows_dense_and_finished_models_and_how_to_load_one() -> None:
    page = make_page(make_content())

    assert "<td>dense</td>" in page
    assert "<td>trial 30</td><td>0.9830 ± 0.0040</td>" in page
    assert "<td>8,000</td><td>1/5</td><td>7,200</td>" in page
    assert "autocompress.load(" in page
    assert "evaluate runs/digits/objects/00/00ab --data data --name mnist" in page


@pytest.mark.parametrize(("trials", "finished"), [(0, 0), (1, 0), (0, 1)])
def test_a_report_of_little_is_a_report(trials: int, finished: int) -> None:
    page = make_page(make_content(trials, finished))

    assert page.endswith("</html>\n")


def test_other_studies_are_compared_with_the_first() -> None:
    alone = make_content()
    others = {"second": trials_frame(make_study(20)), "empty": trials_frame(make_study(0))}

    page = make_page(replace(alone, others=others))

    assert "studies</h2>" not in make_page(alone)
    assert "<h2>3 studies</h2>" in page
    assert "<td>second</td><td>0.9830</td><td>0.9850</td><td>8,000</td>" in page


def test_a_report_says_which_layers_matter_and_how_far_to_believe_it() -> None:
    few, many = make_page(make_content(5)), make_page(make_content(40))

    assert "Too few different evaluations yet" in few
    assert "<td>columns/conv2</td>" in many
    assert "of stretches left out" in many


def test_names_cannot_add_tags() -> None:
    page = make_page(make_content(2, 0, name="<script>x</script>"))

    assert "<script>" not in page


def test_a_written_report_leaves_no_draft_and_no_open_figure(tmp_path: Path) -> None:
    before = plt.get_fignums()  # Other tests may leave theirs.

    write_page(tmp_path / "report.html", make_content(3, 0))

    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert plt.get_fignums() == before
