"""Exports of dense detectors and of CADDet answer as the models in memory."""
import itertools
import json
from unittest import mock

import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf, tf_keras
import yaml

from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.serving import detection
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

# Without padding, the strides do not divide the image size.
UNPADDED = {'model': {'input_size': [50, 70, 3]}, 'train_data': {'parser': {'pad': False}}}
SHALLOW = {'model': {'input_size': [64, 96, 3], 'backbone': {'caddet': {'num_layers': 3}}}}
CASES = [('fcos_dyfpn_efficientnetlite0_sample', (50, 70), UNPADDED, 'none'),
         ('autoassign_fpn_efficientnetlite0_sample', (48, 80), {}, 'portable'),
         ('freeanchor_fpn_efficientnetlite0_sample', (48, 80), {}, 'none'),
         ('fcos_caddet_sample', (64, 96), SHALLOW, 'batched')]


def _operations(exported):
  """Returns all operations of a SavedModel, those of its functions too."""
  graph = tf.saved_model.load(str(exported)).signatures['serving_default'].graph.as_graph_def()
  return itertools.chain(graph.node, *(body.node_def for body in graph.library.function))


@pytest.mark.parametrize('name, size, task, nms', CASES,
                         ids=['fcos', 'autoassign', 'freeanchor', 'caddet'])
def test_exported_answers_as_in_memory(tmp_path, name, size, task, nms):
  tf_keras.utils.set_random_seed(0)  # With some weights two detections have one score.
  config = small_detectors.small_experiment(name, **task)
  if not task:
    config.task.model.input_size = [64, 96, 3]
  detection_task = task_factory.get_task(config.task, logging_dir=None)
  model = detection_task.build_model()
  detection_task.initialize(model)
  kernel = next(v for v in model.head.variables if v.name.endswith('classes/kernel:0'))
  kernel.assign(tf.random.stateless_normal(kernel.shape, [1, 2], stddev=0.1))
  norms = [v for v in model.variables if '/norm/' in v.name]
  # Norms of the identity would hide a mistake in folding, which CADDet's export does.
  for number, variable in enumerate(norms):
    variable.assign(tf.random.stateless_uniform(variable.shape, [number, 0], 0.8, 1.2))
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  exported = tmp_path / 'exported'
  with mock.patch.object(conv_norm, 'fold_norms', wraps=conv_norm.fold_norms) as fold:
    export_saved_model.main([
        f'--experiment={name}', small_detectors.write_overrides(name, tmp_path),
        '--params_override=' + yaml.safe_dump({'task': task}, default_flow_style=True),
        f'--input_image_size={size[0]},{size[1]}', f'--checkpoint_path={tmp_path}/run',
        f'--export_dir={exported}', f'--nms={nms}'])
  fold.assert_called_once()
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=size)
  images = mixed_detector.images(3)
  expected = module.serve(tf.constant(images))
  outputs = detectors.SavedDetector(exported)(images)
  assert np.all(outputs['num_detections'] > 5)
  for key, tolerance in (('detection_scores', 1e-5), ('detection_boxes', 1e-2),
                         ('multiply_adds', 0)):
    np.testing.assert_allclose(outputs[key], expected[key], atol=tolerance, err_msg=key)
  description = json.loads((exported / 'export.json').read_text(encoding='utf-8'))
  assert ('suppression' in description) == (nms == 'none')
  operations = {op.op for op in _operations(exported)}
  assert ('CombinedNonMaxSuppression' in operations) == (nms == 'batched')
  assert description['input_image_size'] == list(size)
  gmac = description['gmac']
  assert (gmac['minimum'] < gmac['maximum']) == ('_fpn_' not in name)


def test_a_size_so_narrow_that_nothing_is_left_of_upright_images(tmp_path):
  size = (32, 2080)
  _, _, module = mixed_detector.build('fcos_fpn_efficientnetlite0_sample', size)
  differences = export_saved_model.save(module, tmp_path, 'image_tensor', size, 1)
  assert differences['detection_boxes'] < 1e-3
