"""The report: whatever the names and figures are, the page stands and holds nothing that could run."""

import json
from datetime import UTC, datetime

from flows.models.taxi.spec import spec
from flows.steps.decision import Decision, Facts
from flows.steps.drift import FeatureDrift
from flows.steps.pages import three_digits
from flows.steps.performance import Part, Performance
from flows.steps.report import TOLD_DIFFERENCES, Findings, draw, markdown, summary, write_report
from flows.steps.skew import Difference, Skew

NOW = datetime(2024, 3, 1, tzinfo=UTC)
NOTHING = float("nan")


def findings(name="distance_miles", error=3.5, decision=None):
    part = Part(name="2024-02-28", rows=800, error=error, expected=3.4, low=3.2, high=3.8)
    performance = Performance(
        metric="rmse", first_event=NOW, last_event=NOW, predictions=900, labelled=800, waiting=100, outside=0,
        error=error, interval=(3.2, NOTHING), reference_error=3.4, expected=3.4, ratio=1.03, ratio_interval=(0.9, 1.1),
        days=(part,), slices=(part,), degraded=False,
    )  # fmt: skip
    moved = FeatureDrift(
        feature=name, distance=0.31, limit=0.1, missing=0.0, missing_reference=0.0, samples=900, watched=True,
        drifted=True,
    )  # fmt: skip
    facts = Facts(performance=performance, drift=(moved,))
    decision = decision or Decision(retrain=True, reasons=(f"drift: {name}",))
    return Findings(model="taxi", version=1, champion_since=NOW, at=NOW, facts=facts, decision=decision)


def written(found, folder):
    return write_report(spec, found, draw(spec, found), folder)


def test_names_are_text_on_the_page_whatever_they_hold(tmp_path):
    page = written(findings(name="<script>alert(1)</script> $\\frac{"), tmp_path).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_fetches_nothing(tmp_path):
    page = written(findings(), tmp_path)
    assert page.name == "monitor-20240301T000000000000Z.html"
    text = page.read_text()
    assert not any(word in text for word in ("http:", "https:", "<link", "url(", "@import"))


def test_a_day_that_cannot_be_drawn_does_not_spoil_the_page(tmp_path):
    assert "inf" in written(findings(error=float("inf")), tmp_path).read_text()


def test_the_summary_is_strict_json():
    found = summary(findings(error=float("inf")), "page.html")
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again["performance"]["error"] is None
    assert again["performance"]["interval"] == [3.2, None]
    assert again["drifted"] == ["distance_miles"]


def test_the_short_form_names_reasons_and_what_holds_back():
    held = Decision(retrain=False, reasons=("drift: hour",), held=("too soon",), notes=("a partition is quarantined",))
    text = markdown(findings(decision=held))
    assert text.startswith("**There is cause to retrain, but it is held back.**")
    assert "- Reasons: drift: hour\n- Held back: too soon\n- Data: a partition is quarantined" in text
    assert "| 900 | 800 |" in text


def test_figures_have_three_digits():
    assert [three_digits(value) for value in (1.9, 0.99501, 12.345, 100.0, 12345.6, NOTHING)] == [
        "1.90", "0.995", "12.3", "100", "12,346", "-",
    ]  # fmt: skip


def test_the_summary_tells_what_nothing_explains_before_the_many_late_values():
    def differing(kind, number):
        return Difference(
            feature="mean", view="zone", request_id=f"{kind}-{number}", row=0, at=NOW, event=NOW, served=1.0,
            recomputed=2.0, kind=kind,
        )  # fmt: skip

    differences = [differing("late", number) for number in range(900)] + [differing("skew", 1), differing("skew", 2)]
    skew = Skew(rows=950, differences=tuple(differences))
    told = summary(findings().model_copy(update={"skew": skew}), "page.html")["skew"]
    assert len(told["differences"]) == TOLD_DIFFERENCES
    assert [one["request_id"] for one in told["differences"][:3]] == ["skew-1", "skew-2", "late-0"]
    assert told["warning"].startswith("training-serving skew: 2 of 950 sampled rows")
