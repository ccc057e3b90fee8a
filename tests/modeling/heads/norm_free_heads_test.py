"""Heads without norm are Model Garden's heads whose norms do nothing."""
import numpy as np
from official.vision.modeling.heads import dense_prediction_heads
from official.vision.modeling.heads import instance_heads
import pytest
import tensorflow as tf

from official_ext.modeling.heads import norm_free_heads

ROIS = [2, 3, 4, 4, 5]
HEADS = {
    'rpn': (dense_prediction_heads.RPNHead,
            {'min_level': 3, 'max_level': 4, 'num_anchors_per_location': 2, 'num_convs': 2,
             'num_filters': 6},
            lambda draw: {'3': draw([2, 4, 4, 5]), '4': draw([2, 2, 2, 5])}),
    'boxes': (instance_heads.DetectionHead,
              {'num_classes': 3, 'num_convs': 1, 'num_filters': 6, 'num_fcs': 2, 'fc_dims': 7},
              lambda draw: draw(ROIS)),
    'masks': (instance_heads.MaskHead, {'num_classes': 3, 'num_convs': 2, 'num_filters': 6},
              lambda draw: [draw(ROIS), tf.constant([[0, 1, 2], [2, 1, 1]])]),
}


@pytest.mark.parametrize('kind', HEADS)
def test_a_head_is_that_of_model_garden_without_its_norms(kind, tmp_path):
  head_class, options, make_inputs = HEADS[kind]
  stock = head_class(**options, norm_epsilon=0.0, name='head')
  head = norm_free_heads.without_norm(stock)
  inputs = make_inputs(lambda shape: tf.random.stateless_normal(shape, [1, sum(shape)]))
  head(inputs)
  stock(inputs)
  for index, variable in enumerate(stock.trainable_variables):
    if '/gamma' not in variable.name and '/beta' not in variable.name:
      variable.assign(tf.random.stateless_normal(variable.shape, [2, index], stddev=0.5))
  path = tf.train.Checkpoint(head=stock).save(tmp_path / 'ckpt')
  tf.train.Checkpoint(head=head).read(path).assert_existing_objects_matched().expect_partial()
  kept = {variable.name for variable in stock.variables if '-bn' not in variable.name
          and '-norm' not in variable.name}
  assert {variable.name for variable in head.variables} == kept
  for found, expected in zip(tf.nest.flatten(head(inputs, training=True) if kind != 'rpn' else
                                             head(inputs)),
                             tf.nest.flatten(stock(inputs))):
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
  again = type(head).from_config(head.get_config())
  assert again.get_config() == head.get_config()
