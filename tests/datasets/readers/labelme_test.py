"""Masks that LabelMe files hold are read pixel by pixel."""
import base64
import io
import json

import numpy as np
from PIL import Image
import pytest

from dataset_files import by_reason
from layout_files import read, save, SIZE, write
from official_ext.datasets import masks


def encoded(mask: np.ndarray) -> str:
  """Returns a mask as LabelMe writes it."""
  file = io.BytesIO()
  Image.fromarray(mask).save(file, 'PNG')
  return base64.b64encode(file.getvalue()).decode()


def mask_shape(mask: np.ndarray, x: int, y: int, **more) -> dict:
  """Returns the shape of a mask whose first pixel is (x, y); LabelMe names its last pixel too."""
  height, width = mask.shape
  return dict(label='red', shape_type='mask', mask=encoded(mask),
              points=[[x, y], [x + width - 1, y + height - 1]], **more)


def with_shapes(folder, *shapes):
  for name in ('a', 'b'):
    save(folder / f'{name}.png', [])
    write(folder / f'{name}.json', json.dumps(dict(
        shapes=shapes, imagePath=f'{name}.png', imageWidth=SIZE[0], imageHeight=SIZE[1])))
  return read(folder)


def drawn() -> np.ndarray:
  """Returns an L with a hole, and a pixel apart."""
  mask = np.zeros([10, 21], bool)
  mask[:6, :9] = mask[6:, :4] = mask[9, 20] = True
  mask[2:4, 3:5] = False
  return mask


@pytest.mark.parametrize('kind', [bool, np.uint8])
def test_masks_keep_their_holes_and_parts(tmp_path, kind):
  mask = drawn()
  _, splits, _ = with_shapes(tmp_path, mask_shape(mask.astype(kind) * kind(255), 30, 7))
  (entry,) = splits['train'].annotations
  expected = np.zeros(SIZE[::-1], np.uint8)
  expected[7:17, 30:51] = mask
  assert entry['bbox'] == [30, 7, 21, 10]
  np.testing.assert_array_equal(masks.decode_mask(entry['segmentation'], *SIZE[::-1]), expected)


def test_the_box_is_around_the_pixels_and_groups_are_one_object(tmp_path):
  mask = drawn()
  mask[9, 20] = False  # the mask is wider than its pixels
  _, splits, _ = with_shapes(
      tmp_path, mask_shape(mask, 3, 4, group_id=1), mask_shape(np.ones([2, 5], bool), 40, 30,
                                                               group_id=1))
  (entry,) = splits['train'].annotations
  assert entry['bbox'] == [3, 4, 42, 28]
  found = masks.decode_mask(entry['segmentation'], *SIZE[::-1])
  assert found.sum() == mask.sum() + 10 and found[30:32, 40:45].all()


@pytest.mark.parametrize('mask, points, reason', [
    ('???', [[1, 2], [3, 4]], 'its mask is not an image'),
    (None, [[1, 2], [3, 4]], 'its mask is not an image'),
    (encoded(np.zeros([3, 3], bool)), [[1, 2], [3, 4]], 'its mask is empty'),
    (encoded(np.ones([3, 3], bool)), [], 'mask has no points')])
def test_masks_that_cannot_be_read_are_told(tmp_path, mask, points, reason):
  _, splits, findings = with_shapes(
      tmp_path, dict(label='red', shape_type='mask', mask=mask, points=points))
  assert by_reason(findings, 'noted')['shape has no points that can be read'] == [
      f'{name}.json shape 1: {reason}' for name in 'ab']
  assert [entry['bbox'] for entry in splits['train'].annotations] == [None]
