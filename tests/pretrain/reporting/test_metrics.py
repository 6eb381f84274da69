"""The fields of a row, and their documentation."""

from pathlib import Path

from pretrain.reporting.metrics import table


def test_the_documented_fields_are_those_of_a_row() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    documented = text.partition("<!-- metrics -->\n")[2].partition("\n<!-- /metrics -->")[0]
    assert documented == table(), "put the output of `python -m pretrain.reporting.metrics` there"
