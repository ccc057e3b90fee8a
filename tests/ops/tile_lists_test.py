"""Lists of tiles convolve at listed positions as lists of positions do, and hold nothing else."""
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import pixel_lists
from official_ext.ops import sparse_block
from official_ext.ops import tile_lists
from official_ext.ops import export_expectation
from official_ext.ops import winograd_conv

CHANNELS, GROUPS = 8, 4
SIZES = ((13, 18), (7, 9), (4, 5), (2, 3))


def _maps(batch, depth, seed=0):
  random = np.random.default_rng(seed)
  return [tf.constant(random.normal(size=[batch, *size, depth]), tf.float32) for size in SIZES]


def _weights():
  random = np.random.default_rng(1)
  shapes = ([3, 3, CHANNELS, CHANNELS], [CHANNELS], [CHANNELS]) * 2
  return sparse_block.ResidualWeights(
      *(tf.constant(random.normal(size=shape), tf.float32) for shape in shapes))


def _canvas(mask_of, batch):
  maps = _maps(batch, CHANNELS)
  canvas = pixel_lists.Canvas(maps, (3, 3))
  mask = canvas.draw([tf.constant(mask_of(x.shape[:3])) for x in maps], outside=False)
  return maps, canvas, mask


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('share', [0.02, 0.3, 1.0])
def test_equals_the_convolution_at_listed_positions(batch, share):
  random = np.random.default_rng(0)
  maps, canvas, mask = _canvas(lambda shape: random.uniform(size=shape) < share, batch)
  kernel = tf.constant(random.normal(size=[3, 3, CHANNELS, 5]), tf.float32)
  pixels = canvas.list_pixels(mask)
  tiles = tile_lists.list_tiles(mask, pixels)
  rows = tile_lists.convolve(canvas.table(maps), canvas.rows_of_places(), tiles, kernel)
  for actual, x, own in zip(canvas.put_back(rows, pixels), maps, _split(canvas, mask)):
    exact = tf.nn.conv2d(tf.cast(x, tf.float64), tf.cast(kernel, tf.float64), 1, 'SAME')
    expected = np.where(own[..., None], exact, 0)
    assert np.max(np.abs(actual - expected)) <= 3e-6 * np.max(np.abs(exact))
  assert tiles.places.shape == (36, _number_of_tiles(mask.numpy()))


def _split(canvas, mask):
  """Returns the masks of the maps, from the canvas."""
  return [mask.numpy()[:, row:row + height, 1:width + 1]
          for row, (height, width) in zip(canvas.first_rows(), canvas.sizes)]


def _number_of_tiles(mask):
  return sum(image[y:y + 4, x:x + 4].any() for image in mask
             for y in range(0, mask.shape[1], 4) for x in range(0, mask.shape[2], 4))


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('adds_input', [False, True])
@pytest.mark.parametrize('by_tiles', [False, True])
def test_residual_blocks_are_the_same(monkeypatch, batch, adds_input, by_tiles):
  monkeypatch.setattr(winograd_conv, '_WORTH', float('inf'))
  gates = [tf.nn.relu(gate - 1) for gate in _maps(batch, 1, seed=2)]
  arguments = _maps(batch, CHANNELS), gates, _weights(), GROUPS
  expected = sparse_block.residual_blocks(*arguments, mode='mask', adds_input=adds_input)
  with (mock.patch.object(tile_lists, 'are_cheaper', return_value=tf.constant(by_tiles)),
        mock.patch.object(tile_lists, 'convolve', wraps=tile_lists.convolve) as convolve,
        export_expectation.expected()):
    actual = sparse_block.residual_blocks(*arguments, adds_input=adds_input, break_even=1.0)
  assert convolve.call_count == (2 if by_tiles else 0)
  for one, other in zip(actual, expected):
    assert np.max(np.abs(one - other)) < 1e-5


def test_tiles_are_cheaper_where_they_are_full():
  for channels, positions, expected in (
      (128, 16, True), (128, 5, True), (128, 4, False), (256, 7, True), (256, 6, False),
      (16, 16, True), (16, 8, False)):
    tiles = tile_lists.Tiles(tf.zeros([36, 10], tf.int32), tf.zeros([10 * positions], tf.int32),
                             tf.zeros([3, 2], tf.int32))
    assert bool(tile_lists.are_cheaper(tiles, channels)) == expected, (channels, positions)


def test_without_an_export_or_on_small_maps_no_tiles_are_listed():
  arguments = _maps(1, CHANNELS), [tf.nn.relu(gate) for gate in _maps(1, 1)], _weights(), GROUPS
  with mock.patch.object(tile_lists, 'list_tiles') as listed:
    sparse_block.residual_blocks(*arguments, break_even=1.0)
    with export_expectation.expected():
      sparse_block.residual_blocks(*arguments, break_even=1.0)
  assert not listed.called
