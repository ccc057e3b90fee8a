"""The papers' rule of image sizes, against exact fractions, and the canvases that meet it."""
import fractions
import itertools

import numpy as np
from official.vision.ops import preprocess_ops
import pytest
import tensorflow as tf

from official_ext.ops import canvases

# Height and width; both orientations of each are tested.
IMAGES = [(48, 64), (64, 64), (43, 64), (48, 48), (36, 64), (30, 91), (20, 90), (7, 64), (100, 134),
          (200, 301), (333, 500), (80, 133), (80, 134), (1, 5), (61, 82)]
SETTINGS = [(80, 133, [1.34, 1.51], 32), (64, 133, [], 16), (60, 100, [1.0, 1.3], 32),
            (80, 80, [1.5], 32)]


def rule(size, short_side, long_side):
  """The papers' size of an image, in exact arithmetic; halves are rounded to even."""
  scale = min(fractions.Fraction(short_side, min(size)), fractions.Fraction(long_side, max(size)))
  return tuple(round(side * scale) for side in size)


@pytest.mark.parametrize('short_side,long_side,ratios,stride', SETTINGS)
def test_model_gardens_resize_into_the_chosen_canvas_is_the_rule(short_side, long_side, ratios,
                                                                 stride):
  choices = canvases.Canvases(short_side, long_side, ratios, stride)
  sizes = [size for image in IMAGES for size in (image, image[::-1])]
  indices = choices.index(tf.constant(sizes)).numpy()
  for size, index in zip(sizes, indices):
    canvas = choices[index]
    image, info = preprocess_ops.resize_and_crop_image(
        tf.ones([*size, 1]), canvas.box, padded_size=list(canvas.size))
    height, width = rule(size, short_side, long_side)
    assert image.shape == (*canvas.size, 1) and all(side % stride == 0 for side in canvas.size)
    assert tf.reduce_sum(image) == height * width  # in the corner, and padding around it
    assert np.all(image[:height, :width] == 1)
    np.testing.assert_array_equal(canvases.without_padding(info)[1], [height, width])
    np.testing.assert_array_equal(canvases.without_padding(info)[::2], info[::2])
    smaller = [other for other in choices if np.prod(other.size) < np.prod(canvas.size)]
    assert not any(other.size[0] >= height and other.size[1] >= width for other in smaller)


def test_canvases_of_the_papers():
  sizes = [canvas.size for canvas in canvases.Canvases(800, 1333, [1.34, 1.51], 32)]
  assert sizes == [(800, 1088), (800, 1216), (800, 1344),
                   (1088, 800), (1216, 800), (1344, 800)]
  choices = canvases.Canvases(800, 1333, [], 128)
  assert [canvas.size for canvas in choices] == [(896, 1408), (1408, 896)]
  assert choices.widest == ((800, 1333), (896, 1408))


def test_more_ratios_waste_less_padding():
  random = np.random.default_rng(0)
  images = tf.constant(random.integers(200, 640, [100, 2]))

  def area(ratios):
    choices = canvases.Canvases(800, 1333, ratios, 32)
    return sum(np.prod(choices[index].size) for index in choices.index(images).numpy())

  areas = [area(ratios) for ratios in ([], [1.34], [1.34, 1.51], [1.0, 1.17, 1.34, 1.51])]
  assert all(more < less for less, more in itertools.pairwise(areas))


@pytest.mark.parametrize('arguments,message', [
    ((0, 10, []), 'short side is 0'), ((20, 10, []), 'long_side is 10'),
    ((10, 20, [1.5, 0.7]), r'aspect_ratios is \[1.5, 0.7\]')])
def test_wrong_options_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    canvases.Canvases(*arguments, stride=32)
