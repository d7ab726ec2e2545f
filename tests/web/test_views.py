"""Of each view what a change most likely breaks, in one process; the others are slow tests."""

from __future__ import annotations

import pytest
from web.test_experiment import (
    board,
    test_the_counts_are_those_of_the_ledger,
    test_the_thumbnails_are_the_planes_of_the_files_on_one_scale,
)
from web.test_frames import (
    colour,
    test_each_status_has_its_shape_and_colour,
    test_numbers_are_those_of_the_ledger,
)
from web.test_runs import (
    table,
    test_a_row_opens_to_its_ledger_its_pictures_and_its_files,
    test_the_copied_lines_read_the_run,
    test_the_rows_are_those_of_the_route_newest_first,
)
from web.test_volume_view import (
    test_a_dragged_cut_has_the_cells_of_the_file,
    test_an_address_is_the_whole_view,
    test_the_pixels_are_the_cells_of_the_file,
)

pytestmark = pytest.mark.web

__all__ = [
    "board",
    "colour",
    "table",
    "test_a_dragged_cut_has_the_cells_of_the_file",
    "test_a_row_opens_to_its_ledger_its_pictures_and_its_files",
    "test_an_address_is_the_whole_view",
    "test_each_status_has_its_shape_and_colour",
    "test_numbers_are_those_of_the_ledger",
    "test_the_copied_lines_read_the_run",
    "test_the_counts_are_those_of_the_ledger",
    "test_the_pixels_are_the_cells_of_the_file",
    "test_the_rows_are_those_of_the_route_newest_first",
    "test_the_thumbnails_are_the_planes_of_the_files_on_one_scale",
]
