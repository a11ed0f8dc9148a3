"""Fault 17: six processes apply definitions of their own at once. All views are there afterwards, in Feast's SQL registry."""

from forked_parts import at_once

from flows.steps import feature_store

DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Int64
zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.INT64)
source = FileSource(name="source_{number}", path="features/{number}", timestamp_field="event_timestamp")
view = FeatureView(
    name="view_{number}", entities=[zone], ttl=timedelta(days=1), schema=[Field(name="trips_{number}", dtype=Int64)],
    source=source,
)
service = FeatureService(name="service_{number}", features=[view])
"""
IMPORTS = """
import feast
from flows.models.taxi.spec import spec
from flows.settings import load
from flows.steps import feature_store
home = load()
"""
BODY = """
own = spec.model_copy(
    update={
        "definitions": f"definitions_{number}", "feature_service": f"service_{number}", "slices": (),
        "entities": {f"view_{number}": ("zone",)},
        "triggers": spec.triggers.model_copy(update={"drift_columns": (f"trips_{number}",)}),
    }
)
feature_store.apply_definitions(home, own)
"""


def test_all_views_exist(home, tmp_path):
    for number in range(6):
        (tmp_path / f"definitions_{number}.py").write_text(DEFINITIONS.format(number=number))
    statuses, said = at_once(6, IMPORTS, BODY, {"PYTHONPATH": str(tmp_path)})
    assert statuses == [0] * 6, said[-3000:]
    store = feature_store.open_store(home)
    assert {view.name for view in store.list_feature_views()} == {f"view_{number}" for number in range(6)}
    assert {one.name for one in store.list_feature_services()} == {f"service_{number}" for number in range(6)}
