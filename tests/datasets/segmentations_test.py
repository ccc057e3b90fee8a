"""Segmentations of every form become the same mask; what would harm pycocotools is refused."""
import numpy as np
from pycocotools import mask as mask_lib
import pytest

from official_ext.datasets import findings
from official_ext.datasets import masks
from official_ext.datasets import segmentations

SQUARE = [2, 1, 4, 1, 4, 3, 2, 3]
POINTS = [[2, 1], [4, 1], [4, 3], [2, 3]]


@pytest.mark.parametrize('segmentation, change', [
    ([SQUARE], ''), (SQUARE, 'not in a list of polygons'), (POINTS, 'list of points'),
    ([POINTS], 'list of points'), ([[str(value) for value in SQUARE]], 'text'),
    ([SQUARE, [1, 1, 2, 2]], 'fewer than three points'), ([tuple(SQUARE)], '')])
def test_polygons_of_every_form_give_the_same_mask(segmentation, change):
  expected = np.zeros((4, 5), np.uint8)
  expected[1:3, 2:4] = 1
  normal, said = segmentations.normalize(segmentation, 4, 5)
  np.testing.assert_array_equal(masks.decode_mask(normal, 4, 5), expected)
  assert bool(said) == bool(change) and change in said
  assert segmentations.bounds(normal) == [2, 1, 2, 2]


def test_polygons_are_scaled_and_run_lengths_are_not():
  normal, change = segmentations.normalize([[4, 2, 8, 2, 8, 6, 4, 6]], 4, 5, 0.5)
  assert (normal, change) == ([SQUARE], '')
  with pytest.raises(findings.UnusableError, match='run lengths cannot be scaled'):
    segmentations.normalize(dict(size=[8, 10], counts=[80]), 4, 5, 0.5)


def test_run_lengths_may_be_whole_floats():
  normal, _ = segmentations.normalize(dict(size=[4, 5], counts=[4.0, 3, 13.0]), 4, 5)
  assert normal['counts'] == [4, 3, 13] and set(map(type, normal['counts'])) == {int}
  assert masks.decode_mask(normal, 4, 5)[:3, 1].all()
  for run in (3.5, float('nan'), float('inf')):
    with pytest.raises(findings.UnusableError, match='must be whole numbers'):
      segmentations.normalize(dict(size=[4, 5], counts=[4, run, 13]), 4, 5)


def test_compressed_run_lengths_are_read_as_pycocotools_reads_them():
  rng = np.random.default_rng(0)
  for density in (0, 0.01, 0.1, 0.5, 0.9, 1):
    mask = (rng.random((70, 90)) < density).astype(np.uint8)
    compressed = mask_lib.encode(np.asfortranarray(mask))
    text = dict(size=[70, 90], counts=compressed['counts'].decode())
    for segmentation in (compressed, text):
      assert segmentations.normalize(segmentation, 70, 90) == (text, '')
      np.testing.assert_array_equal(masks.decode_mask(segmentation, 70, 90), mask)


@pytest.mark.parametrize('segmentation, reason', [
    (None, 'there is no mask'), ([], 'there is no mask'), ({}, 'run lengths are for size None'),
    ([[1, 2, 3, 4]], 'there is no mask'), ('text', 'there is no mask'), (7, 'there is no mask'),
    ([[1, 2, 3, 4, 5]], 'malformed segmentation: polygon has 5'),
    ([[1, 2, 3, 4, 5, 'x']], 'malformed segmentation'),
    ([[1, 2, 3, 4, 5, True]], 'malformed segmentation: True'),
    ([[1, 2, 3, 4, 5, None]], 'malformed segmentation: None'),
    ([dict(x=1, y=2)], 'malformed segmentation'), ([[[1, 2], [3]]], 'malformed segmentation'),
    ([[1, 2, 3, 4, 5, float('nan')]], 'polygon is not finite: vertex 3'),
    ([[1, 2, float('inf'), 4, 5, 6]], 'polygon is not finite: vertex 2'),
    ([[1, 2, 3, 4, 10**400, 6]], 'polygon is not finite'), ([[1, 2, 3, 4, 5, 'nan']], 'finite'),
    ([[1, 2, 1e9, 4, 5, 6]], 'polygon reaches far outside the image: vertex 2 at'),
    ([[1, 2, 3, -5, 5, 6]], 'polygon reaches far outside'),
    (dict(size=[5, 4], counts=[20]), r'run lengths are for size \[5, 4\], not for \[4, 5\]'),
    (dict(size=20, counts=[20]), 'run lengths are for size 20'),
    (dict(counts='x'), 'run lengths are for size None'),
    (dict(size=[4, 5], counts=[3, 4]), 'run lengths do not add up'),
    (dict(size=[4, 5]), 'malformed run lengths'), (dict(size=[4, 5], counts=7), 'malformed run'),
    (dict(size=[4, 5], counts=[-1, 21]), 'malformed run lengths'),
    (dict(size=[4, 5], counts=[20.5]), 'malformed run'), (dict(size=[4, 5], counts=['20']), 'mal'),
    (dict(size=[4, 5], counts=[2**70]), 'run lengths do not add up'),
    (dict(size=[4, 5], counts=''), 'run lengths do not add up'),
    (dict(size=[4, 5], counts='P'), 'they end within a number'),
    (dict(size=[4, 5], counts='\u00e9\u00e9'), 'malformed run lengths: character'),
    (dict(size=[4, 5], counts=b'\xff\xff'), 'malformed run lengths: character'),
    (dict(size=[4, 5], counts='o' * 50), 'malformed run lengths: character')])
def test_what_would_harm_pycocotools_is_refused(segmentation, reason):
  with pytest.raises(findings.UnusableError, match=reason):
    segmentations.normalize(segmentation, 4, 5)


def test_a_vertex_may_lie_a_little_outside():
  mask = masks.decode_mask([[-2, -2, 3, -2, 3, 2, -2, 2]], 4, 5)
  expected = np.zeros((4, 5), np.uint8)
  expected[:2, :3] = 1
  np.testing.assert_array_equal(mask, expected)


def test_outlines_that_would_take_all_memory_are_refused():
  with pytest.raises(findings.UnusableError, match='polygon is too long: 3120000 pixels, 2000000'):
    segmentations.normalize([[0, 0, 5, 4] * 300_000], 4, 5)
