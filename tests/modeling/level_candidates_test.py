"""Candidates are the best anchors of each level, as in mmdetection."""
import numpy as np
import tensorflow as tf

from official_ext.modeling import level_candidates

CLASSES, ANCHORS, KEPT = 3, 2, 5


def test_every_level_gives_its_best_anchors():
  random = np.random.default_rng(0)
  sizes = {'3': (4, 4), '4': (2, 1)}
  scores = {level: random.normal(0, 2, (2, *size, ANCHORS * CLASSES))
            for level, size in sizes.items()}
  scores['4'] -= 5  # No anchor of this level is among the best of all.
  boxes = {level: np.zeros((2, *size, ANCHORS * 4)) for level, size in sizes.items()}
  anchors = {}
  for level, size in sizes.items():
    low = random.uniform(0, 1000, (1, *size, ANCHORS, 2))
    corners = np.concatenate([low, low + 1], -1).reshape(1, *size, ANCHORS * 4)
    anchors[level] = np.repeat(corners, 2, 0)
  generator = level_candidates.LevelDetectionGenerator(
      apply_nms=False, pre_nms_top_k=KEPT, nms_version='batched')
  found = generator(*(
      {level: tf.constant(values, tf.float32) for level, values in levels.items()}
      for levels in (boxes, scores, anchors)), tf.fill([2, 2], 2000.0))

  for image in range(2):
    for level, rows in (('3', slice(0, KEPT)), ('4', slice(KEPT, KEPT + 4))):
      logits = scores[level][image].reshape(-1, CLASSES)[:, 1:]  # The first is the background.
      best = np.argsort(-logits.max(1))[:KEPT]
      np.testing.assert_allclose(
          found['decoded_box_scores'][image, rows], 1 / (1 + np.exp(-logits[best])), rtol=1e-5)
      np.testing.assert_allclose(
          found['decoded_boxes'][image, rows, 0], anchors[level][image].reshape(-1, 4)[best],
          rtol=1e-5)
  again = level_candidates.LevelDetectionGenerator.from_config(generator.get_config())
  assert again.get_config() == generator.get_config()
