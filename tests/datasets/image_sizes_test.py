"""A resized image has one factor, to the rounding of its sides; anything else has none."""
import pytest

from official_ext.datasets import findings
from official_ext.datasets import image_sizes


@pytest.mark.parametrize('listed, actual, factor', [
    ((40, 30), (40, 30), 1), ((400, 300), (200, 150), 0.5), ((200, 150), (400, 300), 2),
    ((1333, 800), (667, 400), 667 / 1333), ((100, 3), (50, 1), 0.5), ((30, 40), (15, 20), 0.5),
    ((None, None), (40, 30), 1), ((0, 0), (40, 30), 1), (('80', 60.0), (40, 30), 0.5),
    ((40, None), (40, 30), 1), ((41, 30), (40, 30), 1), ((float('nan'), -3), (40, 30), 1),
    (('wide', True), (40, 30), 1)])
def test_one_factor(listed, actual, factor):
  assert image_sizes.scale(listed, actual) == pytest.approx(factor)


@pytest.mark.parametrize('listed, actual, reason', [
    ((640, 640), (640, 480), 'another picture, cut or stretched: 640 x 640, is 640 x 480'),
    ((400, 300), (200, 160), 'another picture'), ((40, 20), (40, 30), 'another picture'),
    ((30, 40), (40, 30), 'width and height are exchanged'),
    ((80, None), (40, 30), 'only one side is given'), ((None, 31.5), (40, 30), 'only one side')])
def test_two_factors_are_refused(listed, actual, reason):
  with pytest.raises(findings.UnusableError, match=reason):
    image_sizes.scale(listed, actual)


def test_changes_are_told():
  assert image_sizes.change((40, 30), (40, 30), 1) == ('', '')
  assert image_sizes.change((None, None), (40, 30), 1) == ('', '')
  assert image_sizes.change((80, 60), (40, 30), 0.5) == (
      'image size in the annotations is not that of the file: boxes scaled by the same factor',
      '80 x 60, is 40 x 30: times 0.5')
  reason, _ = image_sizes.change((41, 30), (40, 30), 1)
  assert reason.endswith('by a pixel: boxes kept')
