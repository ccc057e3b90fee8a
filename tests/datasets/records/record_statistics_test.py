"""Statistics are those of the boxes that were counted."""
import numpy as np
import pytest

from official_ext.datasets.records import record_statistics


def record(image_id, boxes, classes, num_masks=0, num_crowd=0):
  is_crowd = np.arange(len(boxes)) < num_crowd
  return dict(source_id=image_id.encode(), width=np.int64(40), height=np.int64(30),
              groundtruth_boxes=np.reshape(np.array(boxes, np.float32), (-1, 4)),
              groundtruth_classes=np.array(classes, np.int64), groundtruth_is_crowd=is_crowd,
              groundtruth_instance_masks_png=np.array([b'png'] * num_masks, object))


def test_counts_and_sizes():
  statistics = record_statistics.SplitStatistics()
  statistics.add(record('1', [[0, 0, 1, 1], [0, 0, 0.5, 0.5]], [1, 4], num_masks=2, num_crowd=1))
  statistics.add(record('2', [], []))
  assert statistics.num_boxes_by_id == {'1': 2, '2': 0}
  assert statistics.max_class_id == 4
  summary = statistics.summary({1: 'cat', 2: 'dog'})
  assert summary['num_images'] == summary['num_boxes'] == summary['num_masks'] == 2
  assert summary['num_crowd'] == summary['images_without_boxes'] == 1
  assert summary['boxes_per_image'] == dict(mean=1.0, max=2)
  assert summary['boxes_per_class'] == {'cat': 1, 'dog': 0, '4': 1}
  assert summary['image_sizes'] == {'40 x 30': 2}
  assert summary['box_side_relative']['50'] == pytest.approx(0.75)
  assert summary['box_side_pixels']['50'] == pytest.approx(0.75 * np.sqrt(40 * 30), abs=1e-3)


def test_without_records_everything_is_zero():
  statistics = record_statistics.SplitStatistics()
  summary = statistics.summary({})
  assert statistics.max_class_id == 0
  assert summary['num_images'] == 0 and summary['boxes_per_image'] == dict(mean=0.0, max=0)
  assert summary['box_side_pixels'] == {}
