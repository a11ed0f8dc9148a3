"""The model card: what must be known before use is said in words, from spec, lineage and evidence."""

import re
from datetime import timedelta

import numpy as np
import pytest
from lineage_parts import record

from flows.models.taxi.spec import spec
from flows.steps import card
from flows.steps.pages import span
from flows.steps.pictures import shown_class


def test_the_limits_name_label_time_worst_slices_and_unknown_keys():
    made = record(1)
    more = {"column": "hour", "value": "2", "rows": 5, "error": 4.0, "baseline": 9.0, "champion": None}
    evidence = made.evidence | {"slices": [*made.evidence["slices"], more], "empty": ["route_minutes_mean_28d"]}
    evidence["unseen"] = {"kiwi": 4}
    said = " ".join(card.limits(spec, made.lineage, evidence))
    for text in (
        "minutes from 1 min to 60 min", "from 2024-01-01 to 2024-01-02", "10 later ones", "largest on hour = 2 (4), hour = 1 (2)",
        "learned by heart", "new DOLocationID or PULocationID",
        "No row that trained had a value of route_minutes_mean_28d",
        "4 judging rows are of classes that no row that trained has (kiwi 4): it never says one of them",
    ):  # fmt: skip
        assert text in said


@pytest.mark.parametrize(
    ("labels", "classes", "shown"),
    [
        (["no", "no", "yes"], ["no", "yes"], "yes"),
        (["b", "b", "a", "z", "c"], ["a", "b", "c", "z"], "b"),  # the last by name may have hardly a row
        ([3, 1, 3, 2, 3], [1, 2, 3, 4], 3),
        ([], ["a", "b", "c"], "a"),
    ],
)
def test_of_two_classes_the_second_is_drawn_and_of_more_the_most_frequent(labels, classes, shown):
    assert classes[shown_class(np.asarray(labels), np.asarray(classes))] == shown


def test_the_card_is_one_page_with_figures_gates_and_hashes(tmp_path):
    made = record(1)
    evidence = made.evidence | {"interval": (1.5, 2.5), "train_rows": 90}
    page = card.write(spec, made.lineage, evidence, tmp_path, tmp_path / "card.html").read_text()
    for text in ("Model card", "passed every gate", "hour = 1", "miles", "e" * 64, "PULocationID", "numpy 2.0"):
        assert text in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    evidence["failed"] = ["champion"]
    assert (
        "refused by champion" in card.write(spec, made.lineage, evidence, tmp_path, tmp_path / "card.html").read_text()
    )


def test_spans_are_told_in_the_largest_unit_that_fits():
    assert [span(timedelta(seconds=number)) for number in (90, 7200, 86400 * 7)] == ["90 s", "2 h", "7 d"]
