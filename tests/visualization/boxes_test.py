"""Boxes, masks and labels are drawn in their places; grids hold every image."""
import numpy as np
import pytest

from official_ext.visualization import boxes

_GRAY = 100


def _image(height=60, width=80):
  return np.full((height, width, 3), _GRAY, np.uint8)


def test_draws_the_outline_of_a_box_and_nothing_else():
  image = _image()
  drawn = boxes.draw_boxes(image, [[10, 20, 40, 60]], [''], colors=[(255, 0, 0)],
                           line_width=1)
  expected = _image()
  expected[10:40, 20:60] = (255, 0, 0)
  expected[11:39, 21:59] = _GRAY
  np.testing.assert_array_equal(drawn, expected)
  np.testing.assert_array_equal(image, _image())


def test_blends_masks_with_the_color_of_their_box():
  masks = np.zeros((1, 60, 80), bool)
  masks[0, 50:55, 5:9] = True
  drawn = boxes.draw_boxes(_image(), [[0, 0, 10, 10]], [''], masks=masks,
                           colors=[(200, 0, 100)])
  np.testing.assert_array_equal(np.unique(drawn[50:55, 5:9].reshape(-1, 3), axis=0),
                                [[140, 60, 100]])
  assert (drawn[40:50] == _GRAY).all()


@pytest.mark.parametrize('box', [[30, 20, 50, 60], [0, 60, 59, 80], [-5, -5, 70, 90]])
def test_labels_stay_in_the_picture_and_are_written(box):
  plain = boxes.draw_boxes(_image(), [box], [''], colors=[(255, 255, 0)])
  drawn = boxes.draw_boxes(_image(), [box], ['ab'], scores=[0.5], colors=[(255, 255, 0)])
  changed = np.argwhere((drawn != plain).any(axis=-1))
  height, width = changed.max(axis=0) - changed.min(axis=0) + 1
  assert 10 <= height <= 20 and 20 <= width <= 50, 'the text is cut off'
  assert (drawn.reshape(-1, 3) < 50).all(axis=1).sum() > 20, 'no dark text on yellow'


def test_colors_follow_labels_and_differ():
  colors = {boxes.class_color(number) for number in range(91)}
  assert len(colors) == 91
  drawn = boxes.draw_boxes(
      _image(), [[0, 0, 9, 9], [0, 20, 9, 29], [0, 40, 9, 49]], ['a', 'b', 'a'], font_size=1)
  corners = [tuple(drawn[8, x]) for x in (0, 20, 40)]
  assert corners[0] == corners[2] != corners[1]


def test_no_boxes_leave_the_image_as_it_is():
  np.testing.assert_array_equal(
      boxes.draw_boxes(_image(), np.zeros((0, 4)), [], masks=np.zeros((0, 60, 80))),
      _image())


@pytest.mark.parametrize('arguments, name', [
    (dict(image=_image().astype(np.float32), boxes=[], labels=[]), 'uint8'),
    (dict(image=_image(), boxes=[[0, 0, 1, 1]], labels=[]), 'labels'),
    (dict(image=_image(), boxes=[[0, 0, 1, 1]], labels=['a'], scores=[1, 2]), 'scores'),
])
def test_wrong_arguments_are_named(arguments, name):
  with pytest.raises(ValueError, match=name):
    boxes.draw_boxes(**arguments)


def test_fit_and_enlarge_give_the_factor_of_the_boxes():
  image, scale = boxes.fit(_image(60, 80), 40)
  assert image.shape == (30, 40, 3) and scale == 0.5
  image, factor = boxes.enlarge(_image(60, 80), 100)
  assert image.shape == (120, 160, 3) and factor == 2
  image, factor = boxes.enlarge(_image(60, 80), 60)
  assert image.shape == (60, 80, 3) and factor == 1


def test_grid_holds_every_image_in_order_on_white():
  images = [np.full((20 + 10 * number, 30, 3), 40 * number, np.uint8) for number in range(5)]
  sheet = boxes.draw_grid(images, columns=2)
  assert (sheet[0] == 255).all() and (sheet[:, -1] == 255).all()
  for number, image in enumerate(images):
    rows, columns = np.nonzero((sheet == 40 * number).all(axis=-1))
    assert len(rows) == image.shape[0] * image.shape[1], f'image {number} is cut'
    assert (columns.min() > 30) == (number % 2 == 1)
  first_rows = [np.nonzero((sheet == 40 * number).all(axis=-1))[0].min() for number in range(5)]
  assert first_rows[0] == first_rows[1] < first_rows[2] == first_rows[3] < first_rows[4]


def test_grid_titles_are_written_within_their_cell():
  images = [np.zeros((20, 60, 3), np.uint8)] * 2
  sheet = boxes.draw_grid(images, ['w' * 100, ''], columns=2)
  dark = (sheet < 128).all(axis=-1)[:20]
  assert dark[:, :66].any() and not dark[:, 66:].any()


def test_grid_refuses_no_image_and_another_number_of_titles():
  with pytest.raises(ValueError, match='empty'):
    boxes.draw_grid([])
  with pytest.raises(ValueError, match='titles'):
    boxes.draw_grid([_image()], ['a', 'b'])
