"""Experiments of EfficientDet: `efficientdet_d<0 to 7>_coco`, one for each scale, and a sample.

EfficientDet is Model Garden's RetinaNet, whose losses, assignment and anchors are EfficientDet's,
with another backbone, the decoder `bifpn`, the tower `separable` and separable predictors.
`efficientdet_d1_dynamichead_coco` has the towers of the dynamic head in the place of its own, as a
row of that paper.

Differs: as these experiments are Model Garden's, in the following.
- There are 91 classes, as COCO numbers them, whose first one is the background, instead of 90.
- Suppression drops boxes (`batched`, overlap 0.5) instead of lowering scores by a Gaussian.
- Gradients are clipped to a global norm of 10, not each variable's to 10 before.
- The backbone has no stochastic depth.
- The learning rate is 0 in the last epoch, where the authors' cosine begins to rise again.

Reference: Mingxing Tan, Ruoming Pang, Quoc V. Le, EfficientDet: Scalable and Efficient Object
Detection, https://arxiv.org/abs/1911.09070, Table 1 and section 5.1; the authors' code; Lin Song et
al., Fine-Grained Dynamic Head for Object Detection, https://arxiv.org/abs/2012.03519, Table 4.
"""
import functools
from typing import Any, NamedTuple

from official.core import config_definitions as cfg
from official.core import exp_factory

from official_ext.configs import detectors
from official_ext.configs import experiments


class Scale(NamedTuple):
  """The sizes that belong to one compound coefficient of EfficientDet.

  Attributes:
    backbone: number of the EfficientNet.
    image_size: side of the images.
    num_filters: channels of the decoder and the head.
    num_repeats: number of cells of the decoder.
    num_convs: number of convolutions in each tower of the head.
    fusion: weights of the maps that a node of the decoder fuses.
    anchor_size: side of the smallest anchor, in strides.
  """
  backbone: int
  image_size: int
  num_filters: int
  num_repeats: int
  num_convs: int
  fusion: str = 'fast_normalized'
  anchor_size: float = 4.0


SCALES = {
    'd0': Scale(0, 512, 64, 3, 3),
    'd1': Scale(1, 640, 88, 4, 3),
    'd2': Scale(2, 768, 112, 5, 3),
    'd3': Scale(3, 896, 160, 6, 4),
    'd4': Scale(4, 1024, 224, 7, 4),
    'd5': Scale(5, 1280, 288, 7, 4),
    'd6': Scale(6, 1280, 384, 8, 5, 'sum'),
    'd7': Scale(6, 1536, 384, 8, 5, 'sum', 5.0),
}

# 300 epochs of 128 images; an epoch of the authors' code has 120,000 images.
_BATCH_SIZE = 128
_STEPS = 281_250
_WARMUP_STEPS = 937
_INTERVAL = 3750  # 4 epochs
_LEARNING_RATE = 0.16
_WARMUP_LEARNING_RATE = 0.016
# Batch norm has the statistics of all replicas, in every part.
_NORM = {'use_sync_bn': True, 'norm_momentum': 0.99, 'norm_epsilon': 0.001}
_HEAD: dict[str, Any] = {'use_separable_conv': True}


def scaled_model(scale: Scale) -> dict[str, Any]:
  """Returns options of the model that follow from the compound coefficient.

  Args:
    scale: one of `SCALES`.
  """
  return {
      'input_size': [scale.image_size, scale.image_size, 3],
      'anchor': {'anchor_size': scale.anchor_size},
      'backbone': {'type': 'imported', 'imported': {
          'network': f'efficientnet_b{scale.backbone}', 'source': 'keras'}},
      'decoder': {'type': 'bifpn', 'bifpn': {
          'num_filters': scale.num_filters, 'num_repeats': scale.num_repeats,
          'fusion': scale.fusion}},
      'head': {**_HEAD, 'num_filters': scale.num_filters, 'tower': {
          'type': 'separable', 'separable': {'num_convs': scale.num_convs, **_NORM}}},
  }


def _schedule() -> dict[str, Any]:
  """Returns options of the trainer: SGD, a cosine after a warm-up, and averaged weights.

  Evaluations use the averaged weights, and Model Garden writes them to `ema_checkpoints`.
  """
  trainer = experiments.schedule(
      _STEPS, {'type': 'cosine', 'cosine': {'initial_learning_rate': _LEARNING_RATE,
                                            'decay_steps': _STEPS - _WARMUP_STEPS}},
      _WARMUP_STEPS, _WARMUP_LEARNING_RATE, _INTERVAL, _INTERVAL, global_clipnorm=10.0)
  trainer['optimizer_config']['ema'] = {'average_decay': 0.9998, 'trainable_weights_only': False}
  return trainer


def _coco(name: str) -> cfg.ExperimentConfig:
  """Returns the experiment of a scale on COCO.

  Args:
    name: a key of `SCALES`.
  """
  task = {
      **experiments.coco_data('bifpn'),
      # tools.convert_backbone makes one of the weights of Keras.
      'init_checkpoint': None,
      'init_checkpoint_modules': 'backbone',
      'model': {**scaled_model(SCALES[name]),
                'norm_activation': {'activation': 'swish', **_NORM},
                'detection_generator': {'pre_nms_score_threshold': 0.001}},
      'losses': {'l2_weight_decay': 4e-5}}
  task['train_data'] = {
      **task['train_data'], 'global_batch_size': _BATCH_SIZE,
      'parser': {'aug_rand_hflip': True, 'aug_scale_min': 0.1, 'aug_scale_max': 2.0}}
  return experiments.from_stock('retinanet_resnetfpn_coco', detectors.RetinaNetTaskConfig(),
                                {'task': task}, {'trainer': _schedule()})


def _dynamic_head() -> cfg.ExperimentConfig:
  """Returns D1's experiment with ten blocks in each tower, which give the printed weights."""
  experiment = _coco('d1')
  experiment.override({'task': {
      'model': {'head': {'tower': {'type': 'dynamic', 'dynamic': {'num_blocks': 10}}}},
      'budget': {'weight': 0.1, 'target': 0.0, 'distance': 'absolute'}}})
  return experiment


def _sample() -> cfg.ExperimentConfig:
  """Returns the experiment of a small network on the sample data.

  With the learning rate of the other samples, 0.03, separable convolutions learn boxes too slowly.
  """
  experiment = exp_factory.get_exp_config('retinanet_bifpn_efficientnetlite0_sample')
  norm = experiment.task.model.norm_activation
  tower = {'num_convs': 2, **{name: getattr(norm, name) for name in _NORM}}
  rate = {'cosine': {'initial_learning_rate': _LEARNING_RATE}}
  experiment.override({
      'trainer': {'optimizer_config': {'learning_rate': rate}},
      'task': {'model': {'head': {
          **_HEAD, 'tower': {'type': 'separable', 'separable': tower}}}}})
  return experiment


for _name in SCALES:
  exp_factory.register_config_factory(f'efficientdet_{_name}_coco')(
      functools.partial(_coco, _name))
exp_factory.register_config_factory('efficientdet_d1_dynamichead_coco')(_dynamic_head)
exp_factory.register_config_factory('efficientdet_bifpn_efficientnetlite0_sample')(_sample)
