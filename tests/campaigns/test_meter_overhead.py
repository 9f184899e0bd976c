"""The campaign that times the meters, at a size for every commit."""

from .meter_overhead import measured, summary


def test_meters_take_little_of_a_step():
    rows = measured(3)
    assert len(rows) == 3
    assert all(0 < row["meter_seconds"] < row["step_seconds"] for row in rows)
    assert summary(rows)["share_of_median"] < 0.03, "three times what the campaign allows, on a busy machine"
