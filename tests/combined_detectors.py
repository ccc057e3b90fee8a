"""Small detectors of any backbone, decoder and head: their experiments, and one check of all."""
import numpy as np
from official.core import task_factory
import tensorflow as tf, tf_keras

from official_ext.serving import detection
from official_ext.serving import export_saved_model
import small_detectors

# Model Garden's that dense detectors take, and all of the package.
DECODERS = {
    'fpn': {}, 'inception_fpn': {'branches': ['1x1', '3x3d2']},
    'dyfpn': {'branches': ['1x1', '3x3d2']}, 'drfpn': {}, 'fpn_lite': {},
    'ifpn': {'solver': small_detectors.SHORT_SOLVER},
    'pafpn': {}, 'deformable_fpn': {}, 'bifpn': {'num_repeats': 1},
    'carafe': {'compressed_filters': 8},
    'caddet_projection': {}, 'nasfpn': {'num_repeats': 1}}
PLAIN = {'type': 'plain', 'plain': {'num_convs': 1}}
DYNAMIC = {'type': 'dynamic', 'dynamic': {'num_blocks': 1}}
SEPARABLE = {'type': 'separable', 'separable': {'num_convs': 1}}
# Name -> detector and tower.
HEADS = {
    'fcos': ('fcos', PLAIN), 'fcos_dynamic': ('fcos', DYNAMIC),
    'atss': ('atss', PLAIN), 'autoassign': ('autoassign', PLAIN),
    'freeanchor_dynamic': ('freeanchor', DYNAMIC),
    'retinanet': ('retinanet', {'type': None}), 'retinanet_plain': ('retinanet', PLAIN),
    'retinanet_dynamic': ('retinanet', DYNAMIC), 'efficientdet': ('retinanet', SEPARABLE),
    'fasterrcnn': ('fasterrcnn', None)}
# These give or need levels 3 to 7.
_FIVE_LEVELS = {'nasfpn', 'identity'}


def levels(decoder):
  """Returns the first level, the last one, which is one position, and the side of images."""
  return (3, 7, 128) if decoder in _FIVE_LEVELS else (4, 6, 64)


def experiment(backbone, backbone_options, decoder, head):
  """Returns a small experiment.

  Args:
    backbone: its type.
    backbone_options: its options.
    decoder: a key of `DECODERS`, or `identity`.
    head: a key of `HEADS`.
  """
  detector, tower = HEADS[head]
  first, last, side = levels(decoder)
  own = {'head': {'num_filters': 16, 'tower': tower,
                  'use_separable_conv': head == 'efficientdet'}} if tower else {
      'rpn_head': {'num_filters': 16}, 'detection_head': {'fc_dims': 16}}
  is_routed = backbone == 'caddet' or decoder == 'dyfpn' or 'dynamic' in head
  budget = {'weight': 0.1, 'target': 0.0, 'distance': 'absolute'} if is_routed else {}
  decoder_options = {'num_filters': 16, **DECODERS[decoder]} if decoder in DECODERS else {}
  return small_detectors.small_experiment(
      f'{detector}_fpn_efficientnetlite0_sample', init_checkpoint=None, annotation_file=None,
      budget=budget, model={
          'min_level': first, 'max_level': last, 'input_size': [side, side, 3],
          'backbone': {'type': backbone, backbone: backbone_options},
          'decoder': {'type': decoder, decoder: decoder_options}, **own,
          # New weights give scores near 0.01, and without detections exports would agree anyway.
          'detection_generator': {'pre_nms_score_threshold': 0.0},
          'norm_activation': {'activation': 'relu'}})


class Batches:
  """Two images with their labels, which depend on the detector and on the size of images alone."""

  def __init__(self, records):
    self._records, self._made = records, {}

  def __call__(self, task, decoder, head):
    """Returns a batch of the training data, read once for all networks that take the same."""
    # All dense detectors have one parser.
    detector = HEADS[head][0]
    key = detector if detector in ('retinanet', 'fasterrcnn') else 'dense', levels(decoder)
    if key not in self._made:
      self._made[key] = small_detectors.batch(task, f'{self._records}/train-*.tfrecord', size=2)
    return self._made[key]


def check(config, batches, decoder, head, folder):
  """Trains two steps, in which weights get gradients, and exports without any difference.

  Args:
    config: of `experiment`.
    batches: `Batches`.
    decoder: of the experiment.
    head: of the experiment.
    folder: an empty folder.

  Returns:
    The task and the model.
  """
  task = task_factory.get_task(config.task, logging_dir=None)
  model = task.build_model()
  inputs = batches(task, decoder, head)
  optimizer = tf_keras.optimizers.legacy.SGD(0.01, 0.9)
  optimizer._create_all_weights(model.trainable_variables)
  for _ in range(2):
    logs = task.train_step(inputs, model, optimizer, metrics=None)
    assert np.isfinite(logs['loss'])
  # A gradient may be too small to change a weight near 1, so the momentum tells.
  still = [variable.name for variable in model.trainable_variables
           if not np.any(optimizer.get_slot(variable, 'momentum'))]
  # In two steps the scalar that weights the scale step moves from 0, its kernels not yet.
  assert len(still) < 0.3 * len(model.trainable_variables), still
  size = config.task.model.input_size[:2]
  module = detection.RoutedDetectionModule(config, model=model, input_image_size=size)
  # The signature that is saved is the graph that evaluates.
  differences = export_saved_model.save(module, folder, 'image_tensor', size)
  assert {'detection_boxes', 'detection_scores', 'multiply_adds'} <= set(differences)
  assert not any(differences.values()), differences
  return task, model


def check_evaluates(task, model, records):
  """Evaluates two images: the loss is finite, and Model Garden's evaluator makes AP of the boxes.

  Args:
    task: what `check` returned.
    model: what `check` returned.
    records: folder of TFRecords.
  """
  inputs = small_detectors.batch(task, f'{records}/val-*.tfrecord', size=2, training=False)
  metrics = task.build_metrics(training=False)
  logs = task.validation_step(inputs, model, metrics)
  assert np.isfinite(logs['loss'])
  # As Model Garden's evaluator gives them: the values of every replica.
  logs = tf.nest.map_structure(tf.distribute.get_strategy().experimental_local_results, logs)
  state = task.aggregate_logs(step_outputs=logs)
  assert 0 <= task.reduce_aggregated_logs(state)['AP'] <= 1
