"""The contract of a raw table: what breaks it is named, what does no harm passes."""

import pytest

from flows.models.taxi.source import COLUMNS, PUBLIC
from flows.models.taxi.spec import spec
from flows.steps.contract import LABELS_TO_COME, count_problem, fits, schema_problems

SOURCE = spec.source


def changed(**types):
    return {**COLUMNS, **types}


def without(*names, **more):
    return {name: kind for name, kind in COLUMNS.items() if name not in names} | more


def test_the_contract_itself_and_the_public_layout_keep_it():
    assert schema_problems(SOURCE, COLUMNS) == []
    public = {name: COLUMNS.get(name, "DOUBLE") for name in PUBLIC if name != "cbd_congestion_fee"}
    assert schema_problems(SOURCE, public) == []


def test_an_ignored_column_may_come_and_go():
    assert schema_problems(SOURCE, {**COLUMNS, "VendorID": "BIGINT"}) == []


def test_a_renamed_column_is_named_with_its_likely_new_name():
    columns = {("distance_miles" if name == "trip_distance" else name): kind for name, kind in COLUMNS.items()}
    assert schema_problems(SOURCE, columns) == ["column 'trip_distance' is missing, 'distance_miles' is new: renamed?"]


def test_a_column_renamed_beyond_likeness_is_found_by_its_place():
    columns = {("qzx" if name == "trip_distance" else name): kind for name, kind in COLUMNS.items()}
    assert schema_problems(SOURCE, columns) == ["column 'trip_distance' is missing, 'qzx' is new: renamed?"]


def test_a_new_column_of_another_type_is_no_renamed_one():
    found = schema_problems(SOURCE, without("trip_distance", trip_distances="VARCHAR"))
    assert found == ["column 'trip_distance' is missing", "column 'trip_distances' is not in the contract"]


def test_missing_and_extra_columns_are_named():
    assert schema_problems(SOURCE, without("PULocationID")) == ["column 'PULocationID' is missing"]
    assert schema_problems(SOURCE, changed(tip="DOUBLE")) == ["column 'tip' is not in the contract"]


def test_a_file_without_the_column_of_the_label_says_what_to_do_when_labels_are_known():
    later = f"column 'trip_distance' is missing; {LABELS_TO_COME}"
    assert schema_problems(SOURCE, without("trip_distance"), label="trip_distance") == [later]
    assert schema_problems(SOURCE, without("PULocationID"), label="trip_distance") == [
        "column 'PULocationID' is missing"
    ]


@pytest.mark.parametrize("name", ["__index_level_0__", "Unnamed: 0", "Unnamed: 0.1", "column0"])
def test_the_index_of_a_data_frame_is_told_with_how_to_leave_it_out(name):
    (problem,) = schema_problems(SOURCE, changed(**{name: "BIGINT"}))
    assert problem.startswith(f"column {name!r} is not in the contract; ")
    assert problem.endswith("write the file with index=False")
    assert schema_problems(SOURCE.model_copy(update={"ignored": (name,)}), changed(**{name: "BIGINT"})) == []


def test_another_case_is_another_column():
    found = schema_problems(SOURCE, {name.lower(): kind for name, kind in COLUMNS.items()})
    assert "column 'PULocationID' is missing, 'pulocationid' is new: renamed?" in found


def test_reordered_columns_are_refused():
    columns = dict(reversed(COLUMNS.items()))
    assert schema_problems(SOURCE, columns)[0].startswith("columns are reordered: DOLocationID, PULocationID")


def test_reordered_columns_among_ignored_ones_are_refused():
    names = [*PUBLIC[:5], PUBLIC[6], PUBLIC[5], *PUBLIC[7:]]
    found = schema_problems(SOURCE, {name: COLUMNS.get(name, "DOUBLE") for name in names})
    assert found[0].startswith("columns are reordered")


def test_a_wrong_type_is_named_with_the_right_one():
    found = schema_problems(SOURCE, changed(PULocationID="VARCHAR"))
    assert found == ["column 'PULocationID' has type VARCHAR, the contract says BIGINT"]


def test_a_wrong_type_is_told_with_an_example_if_there_is_one():
    found = schema_problems(SOURCE, changed(PULocationID="VARCHAR"), {"PULocationID": "'x' in row 3"})
    assert found == ["column 'PULocationID' has type VARCHAR, the contract says BIGINT: 'x' in row 3"]


@pytest.mark.parametrize(
    ("found", "wanted", "good"),
    [
        ("INTEGER", "BIGINT", True),
        ("FLOAT", "DOUBLE", True),
        ("BIGINT", "DOUBLE", True),
        ("DECIMAL(9,2)", "DOUBLE", True),
        ("TIMESTAMP_NS", "TIMESTAMP", True),
        ("DOUBLE", "BIGINT", False),
        ("UBIGINT", "BIGINT", False),
        ("DECIMAL(9,2)", "BIGINT", False),
        ("DOUBLE", "FLOAT", False),
        ("DATE", "TIMESTAMP", False),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMP", False),
        ("VARCHAR", "DOUBLE", False),
    ],
)
def test_only_what_loses_nothing_stands_for_another_type(found, wanted, good):
    assert fits(found, wanted) is good


@pytest.mark.parametrize(
    ("rows", "usual", "word"),
    [
        (20_000, [2000, 2100, 1900], "10.0 times the usual 2,000"),
        (200, [2000, 2100, 1900], "less than 1/10 of the usual 2,000"),
        (19_999, [2000], None),
        (201, [2000], None),
        (10**9, [], None),
    ],
)
def test_a_tenfold_and_a_tenth_of_the_usual_rows_are_refused(rows, usual, word):
    problem = count_problem(SOURCE, rows, usual)
    assert (problem is None) if word is None else (word in problem)


def test_many_missing_columns_are_one_sentence():
    source = SOURCE.model_copy(update={"columns": {f"c{number}": "BIGINT" for number in range(9)}})
    assert schema_problems(source, {"c0": "BIGINT"}) == [
        "8 columns are missing ('c1', 'c2', 'c3', 'c4', 'c5', …); if these are labels alone, bring them by `evergreen label`"
    ]
    assert len(schema_problems(source, {f"c{number}": "BIGINT" for number in range(4)})) == 5
