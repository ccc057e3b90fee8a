"""The words of the report; `dynamic_detectors_test` runs the whole command."""
import pytest

from official_ext.tools import report


@pytest.mark.parametrize('results, words', [
    ({}, ''), ({'ap': 0.25, 'ap50': 0.5}, 'AP 0.250, AP50 0.500'),
    ({'ap': 0.0, 'ap50': 0.0}, 'AP 0.000, AP50 0.000'),
    # pycocotools returns -1 if no object is annotated.
    ({'ap': -1.0, 'ap50': -1.0},
     'AP unknown, because the annotation file has no object in these images')])
def test_average_precision_in_words(results, words):
  assert report._precision(results) == words
