"""Lists of the positions of several maps against loops over maps, images and positions."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import pixel_lists
import reference

SIZES = [(4, 5), (2, 3), (3, 7), (1, 1)]
BATCH, CHANNELS = 2, 3


def _maps(channels=CHANNELS, sizes=SIZES):
  rng = np.random.default_rng(0)
  return [rng.normal(size=[BATCH, *size, channels]) for size in sizes]


def _masks(share=0.5):
  rng = np.random.default_rng(1)
  return [rng.uniform(size=[BATCH, *size]) < share for size in SIZES]


def _active(maps, masks):
  """Returns values of active positions, image by image and map by map, and their segments."""
  found = [(x[image][mask[image]], image * len(maps) + number)
           for image in range(BATCH) for number, (x, mask) in enumerate(zip(maps, masks))]
  return (np.concatenate([values for values, _ in found]),
          np.concatenate([np.full(len(values), segment) for values, segment in found]))


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1), (5, 3)])
def test_lists_all_maps_in_order(kernel_size, share):
  maps, masks = _maps(), _masks(share)
  canvas = pixel_lists.Canvas(maps, kernel_size)
  pixels = canvas.list_pixels(canvas.draw(masks, outside=False))
  values, segments = _active(maps, masks)
  table = canvas.table(maps)
  np.testing.assert_array_equal(tf.gather(table, pixels.rows), values)
  np.testing.assert_array_equal(pixels.segments, segments)
  assert (canvas.segments, canvas.positions, canvas.positions_of_image) == (8, 2 * 48, 48)
  assert np.sum(canvas.inside) == 48
  back = canvas.put_back(tf.gather(table, pixels.rows), pixels)
  for x, mask, again, copy in zip(maps, masks, back, canvas.maps(table)):
    np.testing.assert_array_equal(again, x * mask[..., None])
    np.testing.assert_array_equal(copy, x)


@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1), (5, 3)])
def test_convolves_all_maps(kernel_size):
  maps, source, target = _maps(), _masks(0.7), _masks(0.3)
  kernel = np.random.default_rng(2).normal(size=[*kernel_size, CHANNELS, 4])
  canvas = pixel_lists.Canvas(maps, kernel_size)
  pixels, read = (canvas.list_pixels(canvas.draw(masks, outside=False))
                  for masks in (target, source))
  results = pixel_lists.convolve(canvas.table(maps), pixels.taps, tf.constant(kernel))
  full = [reference.conv2d(x, kernel) for x in maps]
  np.testing.assert_allclose(results, _active(full, target)[0], 1e-10, 1e-10)
  listed = tf.constant(_active(maps, source)[0])
  results = canvas.convolve_listed(listed, read, pixels, tf.constant(kernel))
  full = [reference.conv2d(x * mask[..., None], kernel) for x, mask in zip(maps, source)]
  np.testing.assert_allclose(results, _active(full, target)[0], 1e-10, 1e-10)
