"""The words of the report; `dynamic_detectors_test` runs the whole command."""
import json

import pytest

from official_ext.tools import report
from official_ext.utils import command_line


@pytest.mark.parametrize('results, words', [
    ({}, ''), ({'ap': 0.25, 'ap50': 0.5}, 'AP 0.250, AP50 0.500'),
    ({'ap': 0.0, 'ap50': 0.0}, 'AP 0.000, AP50 0.000'),
    # pycocotools returns -1 if no object is annotated.
    ({'ap': -1.0, 'ap50': -1.0},
     'AP unknown, because the annotation file has no object in these images')])
def test_average_precision_in_words(results, words):
  assert report._precision(results) == words


def test_the_difference_of_an_export_is_read_or_missed(tmp_path):
  with pytest.raises(command_line.CommandError, match='no export.json that says'):
    report._export_difference(tmp_path)
  (tmp_path / 'export.json').write_text('{"max_abs_diff": 0.5}')
  assert report._export_difference(tmp_path) == 0.5


def test_seconds_of_steps_must_have_names(tmp_path):
  path = tmp_path / 'seconds.json'
  path.write_text(json.dumps({'train': 3.5}))
  assert report._read_seconds(path) == {'train': 3.5}
  path.write_text('[3.5]')
  with pytest.raises(command_line.CommandError, match='--seconds_by_step=.* JSON object'):
    report._read_seconds(path)
