"""A few of the kills of `make torture`."""

import pytest
from torture import PLACES, torture


@pytest.mark.slow
def test_killed_runs_end_as_if_they_had_not_been() -> None:
    summary = torture(kills=8, each=1)
    assert set(summary.kills) == set(PLACES)
    assert summary.compared
