"""Export modules: budgets of images of several sizes, and what suppression there is."""
import types

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import routing
from official_ext.serving import export_modules
from official_ext.utils import command_line
from official_ext.utils import experiment
import small_detectors


@pytest.mark.parametrize('budget, expected', [
    (None, [1, 1, 1]), (0.25, [0.25] * 3), ([0.0, 0.5, np.nan], [0, 0.5, 1])])
def test_image_files_of_any_sizes_have_their_own_budgets(budget, expected):
  module = types.SimpleNamespace(_num_channels=3, serve=lambda images: {
      'budget': tf.reshape(routing.wanted_budget(), [1]),
      'sum': tf.reduce_sum(tf.cast(images, tf.float32), [1, 2, 3])})

  def decode(size):
    return tf.ones([size, 2, 3], tf.uint8)

  @tf.function
  def serve(sizes):
    if budget is None:
      return export_modules.CanvasDetectionModule._serve_each(module, decode, sizes)
    with routing.spending(budget):
      return export_modules.CanvasDetectionModule._serve_each(module, decode, sizes)

  outputs = serve(tf.constant([1, 2, 5]))
  np.testing.assert_array_equal(outputs['budget'], np.float32(expected))
  np.testing.assert_array_equal(outputs['sum'], [6, 12, 30])


@pytest.mark.parametrize('name, options, nms, sentence', [
    ('maskrcnn_fpn_resnet50_coco', 'apply_nms: false', None,
     'apply_nms is false: the masks are of detections'),
    ('maskrcnn_fpn_resnet50_coco', '', 'none', r'--nms=none: the masks .* give --nms=portable\.$'),
    ('retinanet_fpn_efficientnetlite0_sample', 'nms_version: v1, soft_nms_sigma: 0.5', None,
     'soft_nms_sigma is 0.5, .* give --batch_size'),
    ('retinanet_fpn_efficientnetlite0_sample', 'nms_version: v1, soft_nms_sigma: 0.5', 'none',
     '--nms=none: .* no soft_nms_sigma'),
    ('retinanet_fpn_efficientnetlite0_sample', 'nms_version: v2, use_class_agnostic_nms: true',
     'none', '--nms=none: .* no use_class_agnostic_nms'),
    ('retinanet_fpn_efficientnetlite0_sample', 'decode_boxes: false', 'none',
     'decode_boxes is false, which takes a fixed number'),
])
def test_what_cannot_be_suppressed_is_refused(name, options, nms, sentence):
  params = experiment.resolve(
      name, params_override=f'{{task: {{model: {{detection_generator: {{{options}}}}}}}}}',
      lock=False)
  with pytest.raises(command_line.CommandError, match=sentence):
    export_modules.build_module(params, 'nowhere', nms=nms)


@pytest.mark.parametrize('option', [
    'output_normalized_coordinates', 'cast_num_detections_to_float',
    'cast_detection_classes_to_float'])
def test_options_of_detections_are_refused_where_there_are_none(option):
  params = experiment.resolve(
      'fcos_fpn_efficientnetlite0_sample',
      params_override=f'task.export_config.{option}=true', lock=False)
  with pytest.raises(command_line.CommandError,
                     match=rf'--nms=none: task\.export_config\.{option} is about detections'):
    export_modules.build_module(params, 'nowhere', nms='none')


def test_a_size_whose_levels_cannot_be_added_is_refused(monkeypatch):
  monkeypatch.setattr(export_modules.detection.checkpoints, 'find', lambda *_: None)
  params = small_detectors.small_experiment('retinanet_fpn_efficientnetlite0_sample')
  params.task.train_data.parser.pad = False
  with pytest.raises(checks.FieldError, match=r'input_size is \[70, 90, 3\].* multiples of 32'):
    export_modules.build_module(params, 'nowhere', image_size=[70, 90])
