"""Examples are those of Model Garden's own functions, bit for bit."""
import hashlib

import pytest
import tensorflow as tf

from official.vision.data import create_coco_tf_record
from official.vision.data import tfrecord_lib
from official_ext.datasets.records import detection_examples

CONTENT = bytes(range(256)) * 9
NAMES = {2: 'cat', 7: 'Hündchen'}
ANNOTATIONS = [
    dict(bbox=[0.1, 0.2, 13.7, 5], category_id=7, area=31.5, iscrowd=0),
    dict(bbox=[0.0, 1 / 3, 37.0, 28.0], category_id=2, area=1e6, iscrowd=1)]


@pytest.mark.parametrize('number', [0, 1, 2])
@pytest.mark.parametrize('with_masks', [False, True])
def test_examples_are_those_of_model_garden(number, with_masks):
  entry = dict(id=2**40, file_name='a/ü.jpg', width=37, height=29)
  annotations, masks = ANNOTATIONS[:number], [b'one', b'two'][:number] if with_masks else []
  made = detection_examples.make(
      detection_examples.Image(entry, CONTENT, 'jpg', hashlib.sha256(CONTENT).hexdigest()),
      annotations, NAMES, masks)
  features = tfrecord_lib.image_info_to_feature_dict(29, 37, 'a/ü.jpg', 2**40, CONTENT, 'jpg')
  boxes, num_skipped = create_coco_tf_record.bbox_annotations_to_feature_dict(
      annotations, 29, 37, NAMES, include_masks=False)
  features.update(boxes)
  if masks:
    features['image/object/mask'] = tfrecord_lib.convert_to_feature(masks)
  expected = tf.train.Example(features=tf.train.Features(feature=features))
  assert made == expected and not num_skipped
