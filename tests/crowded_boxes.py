"""Padded ground truth for tests of losses that assign: ties, crowds, boxes without a location."""
import numpy as np


def cases(count, rows, image, classes, seed=0):
  """Returns boxes `[count, rows, 4]` in pixels and classes `[count, rows]`, 1 to `classes`.

  Rows of classes 0 and -1, anywhere, are no objects, as a crowd's row is not.  Boxes are on a grid
  of 2 pixels, so that many tie; some are empty, outside, equal, or so small that no location is
  inside.  The first image has no box, the second a full one in every row, the third a small one.
  """
  random = np.random.default_rng(seed)
  boxes, labels = np.full([count, rows, 4], -1.0), np.full([count, rows], -1)
  for case in range(count):
    for row in range(random.integers(0, rows + 1)):
      size = 2 * random.integers(0, [4, 4] if random.random() < 0.4 else np.array(image) // 2)
      start = 2 * random.integers([-4, -4], np.array(image) // 2)
      boxes[case, row] = [*start, *(start + size)]
      if row and random.random() < 0.3:
        boxes[case, row] = boxes[case, row - 1]
      labels[case, row] = random.choice(
          [-1, 0, *range(1, classes + 1)], p=[0.05, 0.05, *[0.9 / classes] * classes])
  labels[0] = -1
  boxes[1], labels[1] = [0, 0, *image], 1
  boxes[2], labels[2] = -1, -1
  boxes[2, 0], labels[2, 0] = [17, 17, 20, 19], 1
  return boxes, labels


def is_object(box, label):
  return label > 0 and box[2] > box[0] and box[3] > box[1]


def iou(a, b):
  shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
  return shared / union if union else 0.0
