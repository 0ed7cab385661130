"""The file of a screening, as its schema describes it."""

from personavec.results import schema
from personavec.screening.result import ScreeningRun


def test_the_schema_names_fields_as_the_file_does() -> None:
    properties = schema(ScreeningRun)["properties"]
    assert isinstance(properties, dict) and "records" not in properties
    assert "sum of kept, flagged and rejected" in str(properties["read"])
