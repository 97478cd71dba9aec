"""A copy of a schema is named by its own content."""

from __future__ import annotations

from robustidps.traffic.schema import Feature, TrafficSchema


def test_a_changed_copy_has_a_digest_of_its_own():
    schema = TrafficSchema(name="small", features=(Feature(name="a"),), classes=("Benign", "Flood"))
    before = schema.digest
    changed = schema.model_copy(update={"classes": ("Benign", "Scan")})
    assert changed.digest != before
    assert schema.digest == schema.model_copy().digest == before
