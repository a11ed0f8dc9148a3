"""What a table's newest part can judge is seen before a model is written; what cannot be is one line that says what to do."""

import ast
from datetime import timedelta
from decimal import Decimal

import ibis
import numpy as np
import pandas as pd
import pytest

from flows.errors import UsageError
from flows.lookup import known_models, load_model
from flows.settings import Settings
from flows.steps.in_memory import connect
from flows.steps.new import choose, drafting, table
from flows.steps.new.draft import Given
from flows.steps.new.wanted import Wanted, refuse, span_text

rng = np.random.default_rng(0)
DAY = timedelta(days=1)
DAYS = {"start": "2024-01-01", "every": DAY}


def chosen(tmp_path, frame, **options):
    """Return what is chosen for a table whose label is ``y``."""
    path = tmp_path / "some.csv"
    frame.to_csv(path, index=False)
    return chosen_of(tmp_path, path, **options)


def chosen_of(tmp_path, path, definitions="own.some.definitions", **options):
    """Return what is chosen for a file or a folder of a table whose label is ``y``."""
    wanted = Wanted(name="some", data=str(path), label="y", **options)
    with connect(tmp_path) as connection:
        looked = table.load(connection, str(path), Settings(home=tmp_path))
        return choose.choose(connection, looked, wanted, refuse, "own.some", definitions)


def test_classes_one_after_the_other_are_refused_where_their_order_is_the_time(tmp_path):
    frame = pd.DataFrame({"x": rng.normal(size=150), "y": np.repeat(["a", "b", "c"], 50)})
    with pytest.raises(UsageError, match=r"sorted by y.*shuffle them once.*--time"):
        chosen(tmp_path, frame, **DAYS)
    assert chosen(tmp_path, frame.sample(frac=1, random_state=0), **DAYS).draft.task == "multiclass"
    dated = frame.assign(when=pd.date_range("2024-01-01", periods=150))
    assert any("one class after the other" in text for text in chosen(tmp_path, dated).warnings)


def test_amounts_that_only_rise_are_told(tmp_path):
    frame = pd.DataFrame({"x": rng.normal(size=150), "y": np.arange(150) * 1.5})
    assert any("sorted by y" in text for text in chosen(tmp_path, frame, **DAYS).warnings)


@pytest.mark.parametrize(("rows", "days"), [(5, 80), (10, 28), (30, 21), (50, 14), (100, 7)])
def test_as_few_weeks_judge_as_hold_rows_enough(tmp_path, rows, days):
    assert judging(tmp_path, rows, lambda number: number * 0.5).judge == days * DAY


@pytest.mark.parametrize(("one_in", "days"), [(10, 7), (40, 14), (90, 28), (150, 80)])
def test_more_weeks_judge_where_a_class_is_rare(tmp_path, one_in, days):
    assert judging(tmp_path, 100, lambda number: np.where(number % one_in, "usual", "rare")).judge == days * DAY


def judging(tmp_path, rows, label):
    """Return the draft for a table of 400 days with so many rows a day."""
    number = np.arange(400 * rows)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(number * (86400 / rows), unit="s").round("s")
    return chosen(tmp_path, pd.DataFrame({"t": times, "x": rng.normal(size=len(number)), "y": label(number)})).draft


@pytest.mark.parametrize(("days", "names"), [(1, ("7d", "28d")), (7, ("14d", "35d")), (30, ("42d", "63d"))])
@pytest.mark.parametrize("label", ["number", "class"])
def test_windows_reach_back_to_where_labels_are_known(tmp_path, days, names, label):
    times = pd.date_range("2024-01-01", "2024-07-01", freq="4h")
    y = rng.normal(size=len(times)) if label == "number" else rng.choice(["a", "b"], len(times))
    told = chosen(tmp_path, pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": y}), delay=days * DAY)
    assert not any("past is not known" in text for text in told.warnings)
    draft = told.draft
    assert (draft.short_name, draft.long_name) == names
    files = drafting.render(draft)
    module = {"__name__": "features"}
    exec(compile(files["features"], "features", "exec"), module)
    rows = pd.DataFrame({"y": y, "event_timestamp": times, "label_timestamp": times + days * DAY})
    ticks = pd.DataFrame({"tick": [times[-1].normalize()]})
    (found,) = module["TABLES"]["some_all"](ibis.memtable(rows), ibis.memtable(ticks)).to_pandas().to_dict("records")
    assert all(np.isfinite(value) for name, value in found.items() if name != "event_timestamp"), found
    assert {f"all_rows_{names[1]}"} < {*found}
    assert found[f"all_rows_{names[1]}"] == 6 * (int(names[1][:-1]) - days) + 1
    assert all(
        f'"{name.removeprefix("all_")}": (' in files["definitions"] for name in found if name != "event_timestamp"
    )
    assert f"history=timedelta(days={names[1][:-1]})" in files["spec"]


@pytest.mark.parametrize(
    ("every", "days", "length"),
    [("day", 60, timedelta(days=7)), ("week", 120, timedelta(days=14)), ("month", 240, timedelta(days=38)),
     ("day", 12, timedelta(days=7)), ("day", 8, timedelta(hours=31))],
)  # fmt: skip
def test_a_past_holds_until_the_next_file_came(tmp_path, every, days, length):
    times = pd.date_range("2024-01-01", periods=days * 24, freq="h")
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    for period, rows in frame.groupby(frame.t.dt.to_period(every[0].upper())):
        (tmp_path / "in").mkdir(exist_ok=True)
        rows.to_csv(tmp_path / "in" / f"{period.start_time:%Y-%m-%d}.csv", index=False)
    draft = chosen_of(tmp_path, tmp_path / "in").draft
    assert (draft.partition_by, draft.valid_for) == (every, length)
    assert f"VALID_FOR = {drafting.delta(length)} " in drafting.render(draft)["definitions"]
    notes = chosen_of(tmp_path, tmp_path / "in").notes
    told = [one for one in notes if f"a file holds a {every}: a request sees a past up to" in one]
    assert bool(told) is (draft.valid_for > 7 * draft.tick)
    mend = "its file again while it grows" if every == "day" else "smaller files"
    assert all(one.endswith(f"; land {mend}, without arrival in spec.py, for a fresher one") for one in told)
    assert draft.arrival == (timedelta(0) if told else None)
    assert ("    arrival=timedelta(days=0),\n" in drafting.render(draft)["spec"]) is bool(told)


@pytest.mark.parametrize(
    ("delay", "length", "told"),
    [
        (DAY, timedelta(days=38), "a file holds a month: a request sees a past up to 31 days old"),
        (60 * DAY, timedelta(days=98), "a file holds a month and waits 60 days for its labels: a request sees a past up to "
         "91 days old"),
    ],
)  # fmt: skip
def test_a_past_holds_until_the_next_file_has_its_labels(tmp_path, delay, length, told):
    times = np.repeat(pd.date_range("2022-01-31", periods=1080), 20)
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    found = chosen(tmp_path, frame, delay=delay)
    assert (found.draft.partition_by, found.draft.valid_for) == ("month", length)
    assert next(note for note in found.notes if note.startswith("a file")).startswith(told)
    assert found.draft.arrival == (delay if delay > DAY else timedelta(0))


def test_files_of_one_tick_wait_for_labels_alone(tmp_path):
    times = pd.date_range("2024-01-01", periods=60 * 24, freq="h")
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    for day, rows in frame.groupby(frame.t.dt.date):
        rows.to_csv(tmp_path / f"{day}.csv", index=False)
    late, usual = (chosen_of(tmp_path, tmp_path, delay=days * DAY) for days in (14, 1))
    assert [(one.draft.partition_by, one.draft.tick) for one in (late, usual)] == [("day", DAY), ("day", DAY)]
    assert (late.draft.valid_for, usual.draft.valid_for) == (timedelta(days=21), timedelta(days=7))
    assert [note for note in late.notes if note.startswith("a file")] == [
        "a file waits 14 days for its labels: a request sees a past up to 14 days old, and so does training"
    ]
    assert not [note for note in usual.notes if note.startswith("a file")]
    assert (late.draft.arrival, usual.draft.arrival) == (14 * DAY, None)


@pytest.mark.parametrize(
    ("every", "count", "each", "days", "least"),
    [("YS", 38, 50, 10227, 350), ("W", 1040, 1, 10910, 256), ("D", 3650, 1, 1095, 273), ("h", 400, 1, 25, 82)],
)
def test_a_draft_trains_on_the_table_that_it_was_made_of(tmp_path, every, count, each, days, least):
    times = np.repeat(pd.date_range("1985-01-01", periods=count, freq=every), each)
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    draft = chosen(tmp_path, frame).draft
    assert (draft.window // DAY, draft.min_train_rows) == (days, least)
    split = times.max() - draft.judge
    assert ((times > split - draft.window) & (times <= split)).sum() > 2 * draft.min_train_rows


def panel(every, count, shops=30):
    """Return a table with a row of each shop at each time, and the number of the time for a label."""
    times = pd.date_range("1990-01-01", periods=count, freq=every)
    rows = pd.DataFrame(
        {"t": np.repeat(times, shops), "shop": np.tile([f"S{number}" for number in range(shops)], count)}
    )
    return rows.assign(x=rng.normal(size=len(rows)), y=np.repeat(np.arange(count) * 1.0, shops)), times


@pytest.mark.parametrize(
    ("every", "gap", "short", "long", "ago"),
    [("YS", 366, 2557, 10227, "2557 days ago"), ("MS", 31, 213, 851, "213 days ago"), ("W", 7, 49, 196, "7 weeks ago"),
     ("3D", 1, 7, 28, "a week ago"), ("D", 1, 7, 28, "a week ago")],
)  # fmt: skip
def test_windows_are_as_long_as_rows_of_an_entity_are_far_apart(tmp_path, every, gap, short, long, ago):
    frame, times = panel(every, 39 if gap > 7 else 200)
    for rows, entity in ((frame, ("shop",)), (frame.drop(columns="shop").assign(shop=0), ())):
        found = chosen(tmp_path, rows, task="regression", entity=entity)
        draft, files = found.draft, drafting.render(found.draft)
        assert (draft.gap, draft.short, draft.long) == (gap * DAY, short * DAY, long * DAY)
        assert draft.valid_for >= 7 * gap * DAY
        assert draft.tick == DAY
        assert f"history=timedelta(days={long})" in files["spec"]
        assert f"last {long} days" in files["definitions"]
        assert f"# What {ago} was" in files["features"]
        assert not any("their past is unknown" in text for text in found.warnings)
        told = [note for note in found.notes if "their past is that of the last" in note]
        assert [note.partition(" lie")[0] for note in told] == [f"rows of {'one shop' if entity else 'the table'}"] * (
            gap > 1
        )
        module = {"__name__": "features"}
        exec(compile(files["features"], "features", "exec"), module)
        known_at = rows.rename(columns={"t": "event_timestamp"}).assign(label_timestamp=rows.t + DAY)
        # What a row of the newest time is trained with, and what the next request is answered with.
        for tick, newest in ((times[-1], len(times) - 2), (times[-1] + DAY, len(times) - 1)):
            ticks = pd.DataFrame({"tick": [tick]})
            for view, past in module["TABLES"].items():
                known = past(ibis.memtable(known_at), ibis.memtable(ticks)).to_pandas().to_dict("records")
                prefix = view.removeprefix("some_")
                assert len(known) == (30 if prefix == "shop" else 1)
                if gap > 1:
                    # Weeks are equally long; where one ends a day sooner or later, one row more is seen, or the one beside.
                    assert abs(known[0][f"{prefix}_newest"] - newest) <= (0.5 if gap > 7 else 0)
                    assert abs(known[0][f"{prefix}_lag_{short}d"] - (newest - 6)) <= (1 if gap > 7 else 0)


def test_a_gap_is_that_of_an_entity_where_all_rows_together_come_daily(tmp_path):
    number = np.arange(6000)
    frame = pd.DataFrame(
        {"t": pd.Timestamp("2022-01-01") + pd.to_timedelta(number // 10, unit="D"), "card": number % 200}
    )
    frame = frame.assign(x=rng.normal(size=6000), y=rng.normal(size=6000))
    assert chosen(tmp_path, frame, entity=("card",)).draft.short == 140 * DAY  # each 20th day
    assert chosen(tmp_path, frame).draft.short == 7 * DAY


@pytest.mark.parametrize(("rare", "told"), [(400, True), (10, False)])
def test_a_past_that_rows_far_apart_do_not_have_is_told(tmp_path, rare, told):
    often = pd.date_range("1990-01-01", periods=60)
    times = [*often, *np.repeat(pd.date_range("1991-01-01", periods=20, freq="YS"), rare // 20 or 1)]
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    frame = pd.concat([frame] * 2, ignore_index=True).assign(x=lambda all_: rng.normal(size=len(all_)))
    found = [text for text in chosen(tmp_path, frame).warnings if "their past is unknown" in text]
    assert len(found) == told
    assert all(" have no row in the 28 days before them" in text for text in found)
    for definitions, file in (
        ("own.some.definitions", "definitions.py"),
        ("feature_repo.some", "feature_repo/some.py"),
    ):
        mends = [text for text in chosen(tmp_path, frame, definitions=definitions).warnings if "their past" in text]
        assert all(f"VALID_FOR in {file} and" in text for text in mends)


def test_fields_that_are_called_otherwise_in_the_table_are_told(tmp_path):
    times = pd.date_range("2024-01-01", periods=300, freq="h")
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=300), "y": rng.normal(size=300)})
    assert not any("files to score" in note for note in chosen(tmp_path, frame).notes)
    frame = frame.assign(t=times.strftime("%Y-%m-%dT%H:%M:%SZ"), länge=rng.normal(size=300), ok=rng.random(300) < 0.5)
    assert (
        "requests and files to score say time for t, lange for länge, ok_flag for ok" in chosen(tmp_path, frame).notes
    )


def test_times_of_which_some_name_their_zone_are_refused(tmp_path):
    times = [f"{time:%Y-%m-%d %H:%M:%S}Z" for time in pd.date_range("2024-01-01", periods=300, freq="h")]
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=300), "y": rng.normal(size=300)})
    assert chosen(tmp_path, frame, time=("t",)).draft.time_form == "instant"
    frame.loc[6, "t"] = "2024-01-01 06:00:00"
    with pytest.raises(UsageError, match=r"t holds '2024-01-01 06:00:00' in row 7, which names no zone, as others do"):
        chosen(tmp_path, frame, time=("t",))


def test_times_that_a_parquet_file_holds_as_texts_are_told_as_such(tmp_path):
    times = [str(time) for time in pd.date_range("2024-01-01", periods=300, freq="h")]
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=300), "y": rng.normal(size=300)})
    frame.to_parquet(tmp_path / "some.parquet")
    with pytest.raises(
        UsageError, match=r"t holds '2024-01-01 00:00:00' in row 1, which is a text in this file; store the"
    ):
        chosen_of(tmp_path, tmp_path / "some.parquet", time=("t",))


def test_labels_of_a_time_to_come_are_told(tmp_path):
    frame = pd.DataFrame({"x": rng.normal(size=300), "y": rng.normal(size=300)})
    assert not any("still to come" in text for text in chosen(tmp_path, frame, **DAYS).warnings)
    assert not any("still to come" in text for text in chosen(tmp_path, frame, start="2999-01-01", every=DAY).warnings)
    told = chosen(tmp_path, frame.assign(n=range(300)), time=("n",), start="2999-01-01", every=DAY).warnings
    assert any(
        text.startswith("300 rows have a y at a time that is still to come") and "--start" in text for text in told
    )


def test_the_key_is_told_and_so_are_zeros_that_were_lost(tmp_path):
    frame = pd.DataFrame({"x": range(300), "y": rng.normal(size=300)})
    frame["code"] = [f"{number % 50:04}" for number in range(300)]
    notes = chosen(tmp_path, frame.assign(part=np.arange(300) % 2), **DAYS).notes
    assert any(note.startswith("the key is time: ") for note in notes)
    assert [note.split()[0] for note in notes if "zeros before its digits" in note] == ["code"]
    twice = pd.concat([frame.assign(when=pd.date_range("2024-01-01", periods=300), shop=shop) for shop in (1, 2)])
    told = chosen(tmp_path, twice, entity=("shop",))
    assert (
        f"the key is {', '.join(told.draft.key)}: it names one row, and on it a prediction meets its label"
        in told.notes
    )
    assert told.draft.key == ("when", "shop")
    assert told.draft.example_time == "2024-10-26"


@pytest.mark.parametrize(("column", "mend"), [("ticket", "--key ticket"), ("x", "add what tells them apart")])
def test_a_key_of_time_alone_is_warned_of_where_rows_come_at_any_time(tmp_path, column, mend):
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.cumsum(rng.integers(1, 9000, 300)), unit="s")
    frame = pd.DataFrame({"when": times, "part": np.arange(300) % 2, "y": rng.normal(size=300)})
    frame[column] = 9000 + (np.arange(300) if column == "ticket" else rng.permutation(300))
    (told,) = (text for text in chosen(tmp_path, frame).warnings if "is the key" in text)
    assert told.startswith("when alone is the key: a second row of the same moment is refused")
    assert mend in told
    hourly = frame.assign(when=pd.date_range("2024-01-01", periods=300, freq="h"))
    told = chosen(tmp_path, hourly)
    assert not any("is the key" in text for text in told.warnings)
    assert told.draft.example_time == "2024-01-13T11:00:00"


def test_an_id_is_advised_where_another_number_tells_rows_apart(tmp_path):
    own = np.random.default_rng(0)
    times = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(3000) // 2 * 977, unit="s")
    frame = pd.DataFrame(
        {"ticket_id": range(3000), "when": times, "who": ["a", "b", "c"] * 1000, "y": own.normal(size=3000)}
    )
    frame.loc[100:101, "who"] = "a"  # two of one moment
    frame["length"] = own.permutation(3000) // 2
    told = chosen(tmp_path, frame, entity=("who",))
    assert told.draft.key == ("when", "who", "length")
    (advice,) = (text for text in told.warnings if "--key" in text)
    assert advice.startswith("length is in the key")
    assert "--key ticket_id names a row by its id" in advice
    assert not any("--key" in text for text in chosen(tmp_path, frame, entity=("who",), key=("ticket_id",)).warnings)


@pytest.mark.parametrize(("classes", "further"), [("ab", "roc_auc"), ("abc", "balanced_accuracy")])
def test_beside_a_rare_class_the_figure_that_the_card_has_is_named(tmp_path, classes, further):
    own = np.random.default_rng(0)
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=6000, freq="15min"), "x": own.normal(size=6000)})
    frame["y"] = np.where(own.random(6000) < 0.02, "b", own.choice([*classes.replace("b", "")], 6000))
    (told,) = (text for text in chosen(tmp_path, frame).warnings if text.startswith("class 'b'"))
    assert told.endswith(f"look at {further} too")


def test_a_label_that_doubles_is_left_to_monitoring_and_one_in_another_unit_is_not(tmp_path):
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=2400, freq="h"), "x": rng.normal(size=2400)})
    low, high = chosen(tmp_path, frame.assign(y=rng.gamma(9, 0.2, size=2400))).draft.label_middle
    assert low <= 0.5
    assert 1.8 * 1.8 < high < 10 * 1.8


def test_decimal_columns_are_numbers_like_any_other(tmp_path):
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=2400, freq="h"), "x": rng.normal(size=2400)})
    frame["y"] = rng.gamma(9, 0.2, size=2400)
    exact = frame.assign(**{name: [Decimal(f"{value:.2f}") for value in frame[name]] for name in "xy"})
    exact.to_parquet(tmp_path / "exact.parquet")
    drawn = chosen_of(tmp_path, tmp_path / "exact.parquet").draft
    assert drawn.columns["x"] == drawn.columns["y"] == "DOUBLE"
    assert drawn.label_middle == chosen(tmp_path, frame.round(2)).draft.label_middle


def test_the_value_that_is_no_time_is_told_with_its_row(tmp_path):
    times = pd.date_range("2024-01-01", periods=300, freq="h").astype(str).to_series(index=range(300))
    frame = pd.DataFrame({"y": rng.normal(size=300)})
    for values, words in (
        (times.where(times.index != 7, "n/a"), "when holds 'n/a' in row 8, which is no time"),
        (times.where(times.index > 1, pd.NA).where(times.index != 250, "soon"), "when holds 'soon' in row 251"),
        (pd.Series(np.linspace(0.5, 2, 300)), "when holds '0.5' in row 1"),
    ):
        with pytest.raises(UsageError, match=words):
            chosen(tmp_path, frame.assign(when=values), time=("when",))


def test_labels_that_are_known_too_late_to_train_are_told(tmp_path):
    frame = pd.DataFrame({"t": pd.date_range("2024-01-01", periods=1200, freq="2h"), "y": rng.normal(size=1200)})
    frame["x"] = rng.normal(size=1200)
    assert any("past is not known" in text for text in chosen(tmp_path, frame, delay=50 * DAY).warnings)
    with pytest.raises(UsageError, match=r"no label would train.*--delay"):
        chosen(tmp_path, frame, delay=95 * DAY)


@pytest.mark.parametrize(("form", "kind"), [("%Y-%m", "month"), ("%G-W%V", "week"), ("%Y-%m-%d", "day")])
def test_periods_are_those_of_which_no_two_files_hold_a_part(tmp_path, form, kind):
    times = pd.date_range("2024-01-01", "2024-04-01", freq="20min", inclusive="left")
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    (tmp_path / "files").mkdir()
    for name, rows in frame.groupby(frame["t"].dt.strftime(form)):
        rows.to_csv(tmp_path / "files" / f"{name}.csv", index=False)
    told = chosen_of(tmp_path, tmp_path / "files")
    assert told.draft.partition_by == kind
    assert not any("at once" in text for text in told.warnings)
    assert chosen(tmp_path, frame).draft.partition_by == "week"  # one file says nothing of the next


def test_times_that_name_their_zone_are_local_ones_of_the_zone_that_is_told(tmp_path):
    times = pd.date_range("2024-01-01", "2024-05-01", freq="h", tz="Europe/Berlin", inclusive="left")
    frame = pd.DataFrame({"t": times, "x": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    (tmp_path / "files").mkdir()
    for month, part in frame.groupby(times.month):
        part.assign(t=part["t"].map(pd.Timestamp.isoformat)).to_csv(tmp_path / "files" / f"{month}.csv", index=False)
    told = chosen_of(tmp_path, tmp_path / "files", zone="Europe/Berlin")
    assert any("are those of Europe/Berlin" in text for text in told.notes)
    assert (told.draft.zone, told.draft.partition_by) == ("Europe/Berlin", "month")
    module = {}
    exec(compile(drafting.render(told.draft)["source"], "source", "exec"), module)
    raw = ibis.memtable(frame.assign(t=frame["t"].dt.tz_convert("UTC")))
    found = module["rows"](raw).to_pandas()
    assert (pd.DatetimeIndex(found["time"]) == times.tz_localize(None)).all()
    utc = chosen_of(tmp_path, tmp_path / "files")
    assert utc.draft.zone == "UTC"
    assert any("those of UTC; those of another place with --zone" in text for text in utc.notes)


def test_an_hour_that_a_clock_shows_twice_lengthens_no_key(tmp_path):
    times = pd.date_range("2024-09-01", "2024-12-01", freq="h", tz="Europe/Berlin", inclusive="left")
    frame = pd.concat(pd.DataFrame({"t": times, "shop": shop, "x": rng.normal(size=len(times))}) for shop in "ab")
    frame.assign(y=rng.normal(size=len(frame))).to_parquet(tmp_path / "some.parquet")
    told = chosen_of(tmp_path, tmp_path / "some.parquet", zone="Europe/Berlin", entity=("shop",))
    assert told.draft.key == ("time", "shop")
    assert any(text.startswith("2 rows have the time, shop of a row before them") for text in told.warnings)
    assert not any("of a row before" in text for text in chosen_of(tmp_path, tmp_path / "some.parquet").warnings)


def test_files_that_share_each_period_are_told_to_be_landed_at_once(tmp_path):
    times = pd.date_range("2024-01-01", "2024-04-01", freq="20min", inclusive="left")
    (tmp_path / "files").mkdir()
    for shop in ("a", "b"):
        frame = pd.DataFrame({"t": times, "shop": shop, "x": rng.normal(size=len(times))})
        frame.assign(y=frame["x"] * 2 + rng.normal(size=len(times))).to_csv(
            tmp_path / "files" / f"{shop}.csv", index=False
        )
    (told,) = (text for text in chosen_of(tmp_path, tmp_path / "files", entity=("shop",)).warnings if "at once" in text)
    assert told.startswith("a.csv and b.csv both hold rows of 2024-W01: land all files at once")


def test_true_and_false_in_a_csv_file_are_flags_as_in_a_parquet_file(tmp_path):
    frame = pd.DataFrame({"when": pd.date_range("2024-01-01", periods=900, freq="h"), "on": rng.random(900) < 0.5})
    frame["word"] = np.where(frame["on"], "t", "f")
    frame["y"] = rng.random(900) < 0.4
    frame.to_parquet(tmp_path / "some.parquet")
    drafts = [chosen(tmp_path, frame).draft, chosen_of(tmp_path, tmp_path / "some.parquet").draft]
    for draft in drafts:
        assert (draft.columns["on"], draft.columns["word"]) == ("BOOLEAN", "VARCHAR")
        assert [(one.name, one.type) for one in draft.given] == [("on_flag", "int"), ("word", "string")]
        assert (draft.label, draft.all_classes) == ("y_flag", (0, 1))


def test_a_column_keeps_its_kind_where_files_store_it_otherwise_or_leave_it_empty(tmp_path):
    (tmp_path / "files").mkdir()
    for month, (whole, number, flag) in {
        1: ("int32", "float32", None),
        2: ("int64", "float64", True),
        3: ("uint8", "float64", False),
    }.items():
        times = pd.date_range(f"2024-{month:02}-01", periods=600, freq="h")
        frame = pd.DataFrame({"t": times.astype("datetime64[ns]" if month == 2 else "datetime64[ms]")})
        frame["whole"] = rng.integers(0, 9, 600).astype(whole)
        frame["number"] = rng.normal(size=600).astype(number)
        frame["day"] = times.date if month == 2 else times.normalize()
        frame["flag"] = pd.Series([flag] * 600, dtype=object)
        frame["mixed"] = "a" if month == 3 else month
        frame["y"] = rng.normal(size=600).astype("float32")
        frame.to_parquet(tmp_path / "files" / f"{month}.parquet", index=False)
    with connect(tmp_path) as connection:
        looked = table.load(connection, str(tmp_path / "files"), Settings(home=tmp_path))
    kinds = {column.name: column.kind for column in looked.columns}
    assert kinds == {
        "t": "TIMESTAMP", "whole": "BIGINT", "number": "DOUBLE", "day": "TIMESTAMP", "flag": "BOOLEAN", "mixed": "VARCHAR",
        "y": "FLOAT",
    }  # fmt: skip


def test_numbers_that_name_an_entity_have_no_bounds(tmp_path):
    times = pd.date_range("2024-01-01", periods=3000, freq="h")
    frame = pd.DataFrame({"t": times, "card": rng.permutation(3000) % 100, "till": rng.permutation(3000) % 9})
    frame["amount"], frame["y"] = rng.integers(0, 99, 3000), rng.normal(size=3000)
    given = {one.name: one for one in chosen(tmp_path, frame, entity=("card", "till")).draft.given}
    assert (given["card"].low, given["card"].high) == (None, None)  # a card that is new is answered as unknown
    assert given["till"].high == 16
    assert given["amount"].high


def test_columns_of_a_csv_file_that_differ_in_capitals_alone_are_named(tmp_path):
    (tmp_path / "some.csv").write_text("when,Class,y,class\n2024-01-01,a,1,b\n")
    with pytest.raises(UsageError, match=r"columns 'Class' and 'class' differ in capitals alone; rename one"):
        chosen_of(tmp_path, tmp_path / "some.csv")


def test_spaces_around_the_name_of_a_column_are_not_typed(tmp_path):
    text = "when, shop, x, y\n"
    for number, when in enumerate(pd.date_range("2024-01-01", periods=600, freq="h")):
        text += f"{when},{number % 3},{number % 7},{rng.normal():.3f}\n"
    (tmp_path / "some.csv").write_text(text)
    draft = chosen_of(tmp_path, tmp_path / "some.csv", time=("when ",), entity=("shop",), drop=("x",)).draft
    assert (draft.key, draft.label, draft.label_raw) == (("when", "shop"), "y", " y")
    assert list(draft.columns) == ["when", " shop", " y"]


def test_a_table_of_twenty_rows_is_too_short(tmp_path):
    with pytest.raises(UsageError, match=r"holds 20 rows, and a model needs 100.*bring a longer table"):
        chosen(tmp_path, pd.DataFrame({"x": range(20), "y": rng.normal(size=20)}), **DAYS)


def test_a_short_table_asks_for_fewer_rows_than_it_has(tmp_path):
    draft = chosen(tmp_path, pd.DataFrame({"x": rng.normal(size=150), "y": rng.normal(size=150)}), **DAYS).draft
    assert 20 <= draft.min_train_rows <= 40
    assert draft.slices == ()


def test_a_rare_class_is_judged_longer_and_by_slices_that_hold_some_of_it(tmp_path):
    rows = 6000
    frame = pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=rows, freq="15min"),
            "kind": rng.choice(["a", "b"], rows),
            "y": (rng.random(rows) < 0.02).astype(int),
        }
    )
    rare = chosen(tmp_path, frame).draft
    common = chosen(tmp_path, frame.assign(y=rng.integers(0, 2, rows))).draft
    assert rare.judge == 2 * common.judge
    assert rare.slice_min_rows > 500
    assert common.slice_min_rows == 100
    assert (rare.slices, common.slices) == ((), ("given_kind",))


def test_a_column_whose_values_are_all_too_rare_is_no_slice(tmp_path):
    rows = 6000
    when = pd.date_range("2024-01-01", periods=rows, freq="15min")
    frame = pd.DataFrame({"when": when, "shop": rng.integers(0, 12, rows), "y": rng.normal(size=rows)})
    assert chosen(tmp_path, frame).draft.slices == ()


def test_a_text_feature_is_broken_over_lines_as_the_formatter_does():
    one = Given(name="kind", raw="kind", type="string", flag=False, required=True, example="a", feature="given_kind")
    texts = [
        drafting.text_feature(one.model_copy(update={"name": "k" * length, "feature": "given_" + "k" * length}))
        for length in (4, 30, 40)
    ]
    assert [text.count("\n") for text in texts] == [0, 2, 3]
    for text in texts:
        assert all(len(line) <= 120 for line in text.splitlines())
        ast.parse("{\n" + text + "\n}")


def test_lengths_of_time_are_words():
    assert span_text(timedelta(days=3, hours=16)) == "3 days 16 hours"
    assert span_text(timedelta(hours=1)) == "1 hour"
    assert span_text(timedelta(seconds=5)) == "5 seconds"


def test_a_package_that_cannot_be_imported_is_named_and_hides_no_model(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path, model_packages=["flows.models", "nowhere_at_all", "nowhere.either"])
    assert known_models(settings) == ["bike", "taxi"]
    with pytest.raises(
        UsageError, match=r"nowhere_at_all, nowhere.either cannot be imported: put its folder on PYTHONPATH"
    ):
        load_model("rent", settings)
    folder = tmp_path / "root" / "own"
    folder.mkdir(parents=True)
    assert drafting.root_to_name(folder, "own.rent") == tmp_path / "root"
    monkeypatch.syspath_prepend(str(tmp_path / "root"))
    assert drafting.root_to_name(folder, "own.rent") is None


def payments():
    rows = 600
    return pd.DataFrame({
        "ref": [f"r{number:05d}" for number in range(rows)],
        "t": pd.date_range("2024-01-01", periods=rows // 2, freq="3h").repeat(2),
        "amount": rng.lognormal(size=rows).round(3), "y": rng.normal(size=rows),
    })  # fmt: skip


def test_an_id_names_the_rows_where_it_is_told_to_and_is_no_feature(tmp_path):
    told = chosen(tmp_path, payments())
    assert told.draft.key == ("t", "amount")
    assert any(
        "amount is in the key, and is an amount: --key ref names a row by its id" in text for text in told.warnings
    )

    named = chosen(tmp_path, payments(), key=("ref",))
    assert named.draft.key == ("ref",)
    assert [(one.name, one.type, one.required, one.feature) for one in named.draft.given] == [
        ("ref", "string", True, None), ("amount", "float", True, "given_amount"),
    ]  # fmt: skip
    assert "ref" in named.draft.columns
    assert not any("ref" in text for text in named.warnings)
    assert chosen(tmp_path, payments(), key=("t", "ref")).draft.key == ("t", "ref")


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (("amount", "none"), "none"),
        (("shop",), "600 of 600|share shop with another row; name more columns with --key"),
        (("gaps",), "gaps cannot name a row"),
        (("y",), "y cannot be an entity or key and the label"),
    ],
)
def test_a_key_that_names_no_row_is_refused(tmp_path, key, told):
    frame = payments().assign(shop=rng.choice(list("ab"), 600))
    frame["gaps"] = pd.Series(range(600), dtype="Int64").mask(frame.index % 3 == 0)
    with pytest.raises(UsageError, match=told):
        chosen(tmp_path, frame, key=key)


@pytest.mark.parametrize(
    ("each", "tolerated", "present"), [(4, 0.5, 0.0), (16, 0.13, 0.4), (30, 0.07, 0.51), (600, 0.05, 0.6)]
)
def test_a_small_period_does_not_fail_by_one_odd_row(tmp_path, each, tolerated, present):
    times = np.repeat(pd.date_range("2015-01-01", periods=96, freq="MS"), each)
    x = np.where(np.arange(len(times)) % 5 == 0, np.nan, rng.normal(size=len(times)))
    frame = pd.DataFrame({"t": times, "x": x, "z": rng.normal(size=len(times)), "y": rng.normal(size=len(times))})
    draft = chosen(tmp_path, frame).draft
    assert draft.period_rows == each
    assert draft.tolerated == tolerated
    assert draft.presence(next(one for one in draft.given if one.name == "x")) == present
    files = drafting.render(draft)
    assert f"TOLERATED = {1 - tolerated:.3g}\n" in files["expectations"]
    assert (f"tolerated={tolerated}," in files["spec"]) is (tolerated != 0.05)
