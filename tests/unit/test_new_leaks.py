"""Columns that give the label away are found, and named as what they are; honest columns are not."""

import numpy as np
import pandas as pd

from flows.steps.new.leaks import find

rng = np.random.default_rng(0)
ROWS = 1000


def table(**columns):
    return pd.DataFrame({"weather": rng.normal(size=ROWS), **columns})


def told(frame, label, numbers=True):
    found = find(frame, label, [name for name in frame if name != label], numbers)
    return {leak.columns: (leak.text, leak.certain) for leak in found}


def test_parts_that_add_up_to_the_label():
    casual, registered = rng.poisson(30, ROWS), rng.poisson(200, ROWS)
    found = told(table(casual=casual, registered=registered, cnt=casual + registered), "cnt")
    assert (
        found == {("casual", "registered"): ("casual + registered = cnt", True)} or found[("casual", "registered")][1]
    )


def test_a_difference_is_named_with_its_sign():
    gross, cost = rng.normal(100, 10, ROWS), rng.normal(60, 10, ROWS)
    found = told(table(gross=gross, cost=cost, profit=gross - cost), "profit")
    assert found[("gross", "cost")] == ("gross - cost = profit", True)


def test_an_equal_and_a_linear_column():
    label = rng.normal(size=ROWS)
    found = told(table(copy=label, fahrenheit=label * 1.8 + 32, y=label), "y")
    assert found[("copy",)] == ("copy equals y", True)
    assert found[("fahrenheit",)] == ("y is a linear function of fahrenheit", True)


def test_a_text_that_stands_for_the_class():
    label = rng.choice(["a", "b", "c"], ROWS)
    found = told(table(code=np.char.add("code ", label), y=label), "y", numbers=False)
    assert list(found) == [("code",)]


def test_missing_values_hide_no_leak():
    label = rng.normal(size=ROWS)
    twice = np.where(rng.random(ROWS) < 0.3, np.nan, label * 2)
    assert ("twice",) in told(table(twice=twice, y=label), "y")


def test_a_strong_feature_is_no_certain_leak():
    x = rng.normal(size=ROWS)
    found = told(table(x=x, y=3 * x + rng.normal(0, 1, ROWS)), "y")
    assert not any(certain for _, certain in found.values())


def test_a_value_or_a_presence_that_gives_one_class_away_is_suspect():
    label = rng.choice(["paid", "partial", "rejected"], ROWS, p=[0.6, 0.2, 0.2])
    note = np.where(label == "rejected", "declined", rng.choice(["phone", "mail"], ROWS))
    payout = np.where(label == "paid", rng.lognormal(5, 1, ROWS), np.nan)
    found = told(table(note=note, payout=payout, outcome=label), "outcome", numbers=False)
    rejected, paid = ((label == one).sum() for one in ("rejected", "paid"))
    asked = "is it known before outcome is?"
    assert found == {
        ("note",): (f"where note is declined, outcome is always rejected ({rejected} rows); {asked}", False),
        ("payout",): (f"where payout is known, outcome is always paid ({paid} rows); {asked}", False),
    }


def test_values_of_one_class_by_chance_are_not_suspect():
    label = np.where(rng.random(ROWS) < 0.03, "yes", "no")
    shop = rng.integers(0, 30, ROWS)
    some = np.where(rng.random(ROWS) < 0.05, 1.0, np.nan)
    assert told(table(shop=shop, some=some, y=label), "y", numbers=False) == {}
