"""Data Docs: pages that are whole in themselves, and that no name or value can break."""

import json
import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from great_expectations import expectations as gxe
from ingest_parts import DAY, Place, clean_day, write

from flows.models.taxi.simulator import break_rows, rename_column
from flows.steps.validation import describe

EVIL = "<script>alert('x')</script>\"'&"


class Page(HTMLParser):
    """Collects the tags and what is loaded or linked."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def here(tmp_path):
    return Place(tmp_path / "home")


def test_a_page_tells_the_verdict_each_check_the_bad_rows_and_the_profile(here, tmp_path):
    (partition,) = here.ingest(write(break_rows(clean_day(), share=0.02), tmp_path / "day.parquet"))
    page = Page(partition.docs_uri)
    for check in partition.validation["checks"]:
        assert check["rule"] in page.text
        assert check["observed"] in page.text
    for word in ("accepted", *partition.reasons, "Rejected rows", "-1.0", "trip_distance", "minutes", "label"):
        assert word in page.text
    assert page.tags.count("svg") == 6
    assert page.tags.count("rect") == 6 * 24
    assert len(Path(partition.docs_uri).read_bytes()) < 100_000


@pytest.mark.parametrize(
    ("bound", "said"),
    [
        (5500.0, "5,500"),
        (11000.0, "11,000"),
        (23456.0, "23,456"),
        (2_500_000.0, "2,500,000"),
        (0.125, "0.125"),
        (7, "7"),
    ],
)
def test_a_bound_is_told_with_its_digits(bound, said):
    rule = gxe.ExpectColumnValuesToBeBetween(column="amount", min_value=0, max_value=bound)
    assert describe(rule) == f"amount: values ≥ 0 and ≤ {said}"


def test_nothing_is_loaded_from_elsewhere(here, tmp_path):
    for number, spoil in enumerate((break_rows, rename_column)):
        write(spoil(clean_day(DAY + timedelta(days=number))), tmp_path / "in" / f"{number}.parquet")
    partitions = here.ingest(tmp_path / "in")
    folder = here.settings.docs / "taxi"
    for path in [*(Path(partition.docs_uri) for partition in partitions), folder / "index.html"]:
        page = Page(path)
        assert not {"script", "link", "img", "iframe"} & set(page.tags)
        for link in page.links:
            assert re.fullmatch(r"[\w.-]+", link)
            assert (folder / link).is_file()
        assert not re.search(r"url\(|@import|https?:", path.read_text(encoding="utf-8"))


def test_great_expectations_own_results_are_kept_beside_the_page(here, tmp_path):
    (partition,) = here.ingest(write(clean_day(), tmp_path / "day.parquet"))
    results = json.loads(Path(partition.docs_uri).with_suffix(".json").read_text())
    assert [result["success"] for result in results] == [True] * len(results)
    assert results[0]["expectation_config"]["type"] == "expect_column_values_to_not_be_null"


def test_the_index_lists_every_revision_with_its_page_and_reasons(here, tmp_path):
    here.ingest(write(clean_day(), tmp_path / "a.parquet"))
    here.ingest(write(rename_column(clean_day()), tmp_path / "b.parquet"))
    page = Page(here.settings.docs / "taxi" / "index.html")
    assert {"2024-01-10-r1.html", "2024-01-10-r2.html"} <= set(page.links)
    assert "'distance_miles' is new: renamed?" in page.text


def test_names_and_values_are_shown_as_text(here, tmp_path):
    frame = clean_day().rename(columns={"trip_distance": EVIL})
    source = write(
        frame.astype({"PULocationID": str}).assign(PULocationID=EVIL), tmp_path / f"{EVIL.replace('/', '')}.parquet"
    )
    (partition,) = here.ingest(source)
    assert partition.status == "quarantined"
    for path in (Path(partition.docs_uri), here.settings.docs / "taxi" / "index.html"):
        page = Page(path)
        assert "script" not in page.tags
        assert "<script>" in page.text  # the column's name, as text
        assert path.parent == here.settings.docs / "taxi"


def test_a_value_in_a_text_column_is_shown_as_text(here, tmp_path):
    from flows.models.taxi.spec import spec

    columns = {**spec.source.columns, "note": "VARCHAR"}
    source = spec.source.model_copy(update={"columns": columns})
    noted = spec.model_copy(update={"source": source, "name": "noted"})
    frame = break_rows(clean_day(), share=0.02).assign(note=EVIL)
    (partition,) = here.ingest(write(frame, tmp_path / "day.parquet"), noted)
    assert partition.status == "accepted"
    page = Page(partition.docs_uri)
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 2  # among the top values, and in the rejected rows
