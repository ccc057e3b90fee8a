"""A few sloppy boxes are no evidence; most boxes of another form are."""
import numpy as np
import pytest

from official_ext.datasets import box_forms


def forms(boxes, size=(640, 480), areas=None):
  result = box_forms.BoxForms()
  for number, box in enumerate(boxes):
    result.add(box, size, areas[number] if areas else None)
  return result.better_reading()


def random_boxes(number, rng, size=(640, 480)):
  start = rng.uniform(0, 0.9, (number, 2)) * size
  return np.concatenate([start, rng.uniform(0.05, 1, (number, 2)) * (size - start)], axis=1)


def test_right_boxes_are_right_with_a_few_over_the_edge():
  rng = np.random.default_rng(0)
  for number in (4, 10, 100):
    for _ in range(30):
      boxes = random_boxes(number, rng)
      boxes[:number // 20, 2] += 700
      assert forms(boxes.tolist()) is None
      assert forms(boxes.tolist(), areas=(boxes[:, 2] * boxes[:, 3] * 0.7).tolist()) is None


def test_boxes_drawn_over_the_edge_are_not_taken_for_another_form():
  # Read as [y, x, height, width] all six lie in the image of 113 x 117; as they are, one does not.
  boxes = [[22, 15, 11, 20], [10, 49, 21, 24], [57, 10, 12, 26], [53, 46, 9, 26], [88, 42, 18, 29]]
  for last in ([85, 89, 31, 22], [85, 89, 90, 22]):  # a little over the edge, and far
    assert forms([*boxes, last], size=(113, 117)) is None
  # A fifth of each of these hangs over the right edge: people draw like that.
  assert forms([[72, y, 20, 20] for y in range(0, 80, 10)], size=(88, 120)) is None
  assert forms([[72, y, 40, 20] for y in range(0, 80, 10)], size=(88, 120)) is not None


@pytest.mark.parametrize('with_areas', [False, True])
def test_random_boxes_of_another_form_are_recognized(with_areas):
  rng = np.random.default_rng(1)
  for _ in range(20):
    x, y, width, height = random_boxes(30, rng).T
    areas = (width * height).tolist() if with_areas else None
    for expected, columns in (
        ('corners [x1', (x, y, x + width, y + height)),
        ('corners with y', (y, x, y + height, x + width)),
        ('y first, [y, x, height', (y, x, height, width)),
        ('center and size', (x + width / 2, y + height / 2, width, height))):
      name, evidence = forms(np.stack(columns, axis=1).tolist(), areas=areas)
      assert name.startswith(expected) and 'of 30 boxes 30 lie in their image' in evidence


def test_few_boxes_say_nothing_and_mixtures_are_no_other_form():
  rng = np.random.default_rng(2)
  boxes = random_boxes(30, rng)
  corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
  assert forms(corners[:3].tolist()) is None
  assert forms([*corners[:15].tolist(), *boxes[15:].tolist()]) is None


@pytest.mark.parametrize('box, expected', [
    ([0.1, 0.2, 0.3, 0.4], True), ([0, 0, 1, 1], True), ([0.5, 0.5, 0.7, 0.2], False),
    ([10, 20, 0.5, 0.5], False), ([0, 0, 0, 0], False)])
def test_boxes_in_parts_of_the_image(box, expected):
  assert box_forms.is_normalized(box, 40, 30) == expected
