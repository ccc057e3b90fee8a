"""Masks survive the way to polygons and run lengths and back; malformed ones are refused."""
import numpy as np
from pycocotools import mask as mask_lib
import pytest
import tensorflow as tf

from official_ext.datasets import findings
from official_ext.datasets import masks


def test_polygons_give_back_any_mask_with_holes_and_several_parts():
  rng = np.random.default_rng(0)
  for _ in range(40):
    mask = rng.random(rng.integers(1, 16, 2)) < rng.random()
    polygons = masks.mask_to_polygons(mask)
    decoded = masks.decode_mask(polygons, *mask.shape) if polygons else np.zeros(mask.shape)
    np.testing.assert_array_equal(decoded, mask)


def test_polygons_go_along_the_sides_of_pixels():
  mask = np.zeros((5, 6), bool)
  mask[1:3, 2:6] = True
  polygon, = masks.mask_to_polygons(mask)
  corners = list(zip(polygon[::2], polygon[1::2]))
  assert sorted(corners) == [(2, 1), (2, 3), (6, 1), (6, 3)]
  assert masks.mask_to_polygons(np.zeros((3, 3))) == []


def test_the_box_around_a_mask_is_tight():
  mask = np.zeros((7, 9), np.uint8)
  mask[2, 3] = mask[5, 4] = 1
  assert masks.tight_box(mask) == [3, 2, 2, 4]


def test_polygons_and_both_kinds_of_run_lengths_give_the_same_mask():
  mask = np.zeros((4, 5), np.uint8)
  mask[1:3, 2:4] = 1
  compressed = mask_lib.encode(np.asfortranarray(mask))
  runs = [9, 2, 2, 2, 5]
  for segmentation in (compressed, dict(size=[4, 5], counts=runs), [[2, 1, 4, 1, 4, 3, 2, 3]]):
    np.testing.assert_array_equal(masks.decode_mask(segmentation, 4, 5), mask)


def test_malformed_segmentations_never_reach_pycocotools():
  for segmentation in (None, [[1, 2, float('nan'), 4, 5, 6]], dict(size=[4, 5], counts='garbage')):
    with pytest.raises(findings.UnusableError):
      masks.decode_mask(segmentation, 4, 5)


@pytest.mark.parametrize('density', [0, 0.003, 0.4, 1])
def test_a_mask_is_encoded_as_the_png_file_that_the_decoder_of_records_reads(density):
  rng = np.random.default_rng(0)
  for size in ((1, 1), (37, 53), (300, 2)):
    mask = (rng.random(size) < density).astype(np.uint8)
    runs = mask_lib.encode(np.asfortranarray(mask))
    decoded = tf.io.decode_png(masks.encode_png(runs), channels=1).numpy()
    np.testing.assert_array_equal(decoded[..., 0], mask)
    assert masks.area(runs) == mask.sum()
