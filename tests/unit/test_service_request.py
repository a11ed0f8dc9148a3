"""The typed request: what fits is parsed, what does not is told by its field."""

import json
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.service.request import BadRequestError, RequestParser
from flows.models.taxi.spec import spec
from flows.spec import RequestField

parser = RequestParser(spec)
YEARS = (datetime.fromisoformat("1971-01-01"), datetime.fromisoformat("2199-12-31"))
ROW = {"lpep_pickup_datetime": "2022-01-25T08:30:00", "PULocationID": 74, "DOLocationID": 42, "trip_distance": 2.4}
PARSED = ROW | {"lpep_pickup_datetime": datetime.fromisoformat("2022-01-25T08:30")}


def body(**changes):
    """Return the body of one row with some fields changed."""
    return json.dumps(ROW | changes).encode()


def places(data, using=parser):
    """Return the fields that a bad body is told of."""
    with pytest.raises(BadRequestError) as caught:
        using.parse(data)
    return [".".join(str(part) for part in detail["loc"]) for detail in caught.value.details]


def test_one_row_and_several_are_both_taken():
    assert parser.parse(body()) == [PARSED]
    assert parser.parse(json.dumps({"rows": [ROW, ROW]}).encode()) == [PARSED, PARSED]


def test_the_example_of_the_spec_is_a_good_request():
    assert parser.example() == [PARSED]
    assert parser.parse(json.dumps({field.name: field.example for field in spec.request}).encode()) == [PARSED]


@pytest.mark.parametrize(
    ("told", "local", "fold"),
    [
        ("2022-01-25T13:30:00Z", datetime.fromisoformat("2022-01-25T08:30"), 0),
        ("2022-01-25T14:30:00+01:00", datetime.fromisoformat("2022-01-25T08:30"), 0),
        ("2022-01-25 08:30", datetime.fromisoformat("2022-01-25T08:30"), 0),
        ("2022-11-06T05:30:00Z", datetime.fromisoformat("2022-11-06T01:30"), 0),
        ("2022-11-06T06:30:00Z", datetime.fromisoformat("2022-11-06T01:30"), 1),
    ],
)
def test_times_with_a_zone_become_local_and_the_hour_that_comes_twice_stays_apart(told, local, fold):
    found = parser.parse(body(lpep_pickup_datetime=told))[0]["lpep_pickup_datetime"]
    assert (found, found.fold, found.tzinfo) == (local, fold, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trip_distance", float("nan")), ("trip_distance", float("inf")), ("trip_distance", -0.1),
        ("trip_distance", 1e300), ("trip_distance", "2.4"), ("trip_distance", None), ("trip_distance", True),
        ("PULocationID", 0), ("PULocationID", 10**4), ("PULocationID", 10**30), ("PULocationID", 74.5),
        ("PULocationID", "74"), ("PULocationID", True), ("PULocationID", [74]), ("PULocationID", {}),
        ("lpep_pickup_datetime", 1643099400), ("lpep_pickup_datetime", "1643099400"), ("lpep_pickup_datetime", "now"),
        ("lpep_pickup_datetime", "2022-02-30T00:00:00"), ("lpep_pickup_datetime", "0001-01-01T00:00:00Z"),
        ("lpep_pickup_datetime", "9999-12-31T23:59:59-12:00"), ("lpep_pickup_datetime", "2022-01-25T08:30:00+99:00"),
        ("lpep_pickup_datetime", "2022-01-25"), ("lpep_pickup_datetime", "٢٠٢٢-01-25T08:30:00"),
        ("one_more", 1), ("rows_", []),
    ],
)  # fmt: skip
def test_a_value_that_does_not_fit_is_told_by_its_field(field, value):
    assert places(body(**{field: value})) == [f"body.{field}"]
    assert places(json.dumps({"rows": [ROW, ROW | {field: value}]}).encode()) == [f"body.rows.1.{field}"]


def test_a_model_of_days_is_asked_by_the_day():
    time = spec.request[0].model_copy(update={"example": "2022-01-25"})
    daily = RequestParser(spec.model_copy(update={"request": (time, *spec.request[1:])}))
    for said in ("2022-01-25", "2022-01-25T00:00:00", "2022-01-25T00:00:00-05:00"):
        (row,) = daily.parse(body(lpep_pickup_datetime=said))
        assert row["lpep_pickup_datetime"] == datetime.fromisoformat("2022-01-25T00:00"), said
    for said in ("2022-02-30", "2022-1-25", "25.01.2022", "2022-01-25T", "0001-01-01"):
        assert places(body(lpep_pickup_datetime=said), daily) == ["body.lpep_pickup_datetime"], said


def test_a_whole_number_may_come_with_a_point_as_it_may_in_a_file():
    (row,) = parser.parse(body(PULocationID=74.0))
    assert row == PARSED
    assert type(row["PULocationID"]) is int
    assert places(body(PULocationID=1e30)) == ["body.PULocationID"]
    gaps = spec.model_copy(
        update={"request": (RequestField(name="n", type="int", example=1, required=False, description=""),)}
    )
    assert RequestParser(gaps).parse(b'{"rows": [{"n": 3.0}, {"n": null}, {}]}') == [{"n": 3}, {"n": None}, {"n": None}]


def test_a_flag_may_be_said_as_true_and_no_other_whole_number():
    flag, count = (
        RequestField(name=name, type="int", example=1, description="", minimum=0, maximum=most)
        for name, most in (("flag", 1), ("count", 9))
    )
    asked = RequestParser(spec.model_copy(update={"request": (flag, count)}))
    (row,) = asked.parse(b'{"flag": true, "count": 1.0}')
    assert row == {"flag": 1, "count": 1}
    assert type(row["flag"]) is int
    assert places(b'{"flag": true, "count": true}', asked) == ["body.count"]


@pytest.mark.parametrize("field", ROW)
def test_a_missing_field_is_named(field):
    assert places(json.dumps({name: value for name, value in ROW.items() if name != field}).encode()) == [
        f"body.{field}"
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nope", b"null", b"[]", b'"text"', b"1", b"\xff\xfe{", body().decode().encode("utf-16"), body()[:-1],
        b"[" * 100_000, b'{"rows":' * 50_000, b'{"trip_distance":' + b"9" * 5000 + b"}", b'{"\\ud800": 1}',
    ],
)  # fmt: skip
def test_what_is_no_json_object_is_refused_as_a_whole(data):
    assert places(data) == ["body"]


def test_rows_must_be_one_to_a_thousand():
    assert places(b'{"rows": []}') == ["body.rows"]
    assert places(json.dumps({"rows": [ROW] * 1001}).encode()) == ["body.rows"]
    assert len(parser.parse(json.dumps({"rows": [ROW] * 1000}).encode())) == 1000


def test_a_long_list_of_problems_is_cut_and_nothing_of_the_input_comes_back():
    secret = "s3cret" * 50
    with pytest.raises(BadRequestError) as caught:
        parser.parse(json.dumps({"rows": [{f"{secret}{n}": secret} for n in range(900)]}).encode())
    assert len(caught.value.details) == 20
    assert secret not in json.dumps(caught.value.details)


def test_a_column_can_be_called_anything():
    fields = tuple(
        RequestField(name=name, type="float", description="", example=1.0)
        for name in ("rows", "model_config", "copy", "__class__", "_x", "a b", 'q"uote', "", "schema", "json")
    )
    odd = RequestParser(spec.model_copy(update={"request": fields}))
    row = {field.name: 1.0 for field in fields}
    assert odd.parse(json.dumps({"rows": [row]}).encode()) == [row]


def test_a_whole_number_without_bounds_fits_64_bits_and_a_text_is_bounded():
    fields = (
        RequestField(name="number", type="int", description="", example=1),
        RequestField(name="text", type="string", description="", example="a"),
    )
    wide = RequestParser(spec.model_copy(update={"request": fields}))
    row = {"number": 2**63 - 1, "text": "ü" * 1000}
    assert wide.parse(json.dumps(row).encode()) == [row]
    assert places(json.dumps({"number": 2**63, "text": "a" * 1001}).encode(), wide) == ["body.number", "body.text"]


def test_a_field_that_need_not_be_known_may_be_null_or_left_out():
    fields = (
        RequestField(name="first", type="float", description="", example=1.0, required=False),
        RequestField(name="second", type="int", description="", example=1),
        RequestField(name="third", type="string", description="", example="a", required=False),
    )
    some = RequestParser(spec.model_copy(update={"request": fields}))
    for known in ({}, {"first": None}, {"first": None, "third": None}):
        assert some.parse(json.dumps({"second": 2} | known).encode()) == [{"first": None, "second": 2, "third": None}]
    assert places(json.dumps({"first": 1.0, "thrid": "a"}).encode(), some) == ["body.second", "body.thrid"]


def test_openapi_describes_both_forms_with_examples_and_bounds():
    content = parser.openapi()["requestBody"]["content"]["application/json"]
    many, one, _ = content["schema"]["anyOf"]
    assert many["properties"]["rows"]["items"] == one
    assert one["properties"]["PULocationID"]["maximum"] == 9999
    assert one["additionalProperties"] is False
    assert sorted(one["required"]) == sorted(ROW)
    assert content["examples"]["row"]["value"] == ROW


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*ROW, "rows", "x"]), inner, max_size=5)
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_parsed_or_refused(data):
    told, rows = [{"loc": ["body"]}], []
    try:
        rows = parser.parse(data)
    except BadRequestError as error:
        told = error.details
    assert all(row.keys() == ROW.keys() for row in rows)
    assert 1 <= len(told) <= 20
    assert all(detail["loc"][0] == "body" for detail in told)


@given(
    st.fixed_dictionaries(
        {
            "lpep_pickup_datetime": st.datetimes(*YEARS).map(datetime.isoformat),
            "PULocationID": st.integers(1, 9999),
            "DOLocationID": st.integers(1, 9999),
            "trip_distance": st.floats(0, 100),
        }
    )
)
def test_every_row_within_the_bounds_is_taken_as_it_is(row):
    local = row | {"lpep_pickup_datetime": datetime.fromisoformat(row["lpep_pickup_datetime"])}
    assert parser.parse(json.dumps(row).encode()) == [local]
