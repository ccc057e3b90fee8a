"""Heads of one-stage detectors: towers that are registered, and the predictors behind them."""
import dataclasses
import math
import types
from typing import Any, Dict, Mapping, Optional, Tuple

from official.modeling import hyperparams
import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.layers import convolutions
from official_ext.modeling.layers import norms

Features = Dict[str, tf.Tensor]

_NORMAL = {'class_name': 'RandomNormal', 'config': {'stddev': 0.01}}


@dataclasses.dataclass
class PlainTowerConfig(hyperparams.Config):
  """Options of a plain tower.

  Attributes:
    num_convs: 3x3 convolutions.
    norm: after each of them, `group_norm` or `none`.
  """
  num_convs: int = 4
  norm: str = 'group_norm'


@components.register_tower('plain', PlainTowerConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class PlainTower(convolutions.ConvBlock):
  """Convolutions, each with group norm and ReLU, that all levels share.

  Reference: Zhi Tian et al., FCOS: Fully Convolutional One-Stage Object Detection,
  https://arxiv.org/abs/1904.01355, section 3; without norm: Tsung-Yi Lin et al., Focal Loss
  for Dense Object Detection, https://arxiv.org/abs/1708.02002, section 4.
  """

  def __init__(self, num_filters: int = 256, num_convs: int = 4, norm: str = 'group_norm',
               kernel_initializer: Any = _NORMAL, **kwargs):
    """Initializes the tower.

    Args:
      num_filters: channels of every convolution.
      num_convs: 3x3 convolutions.
      norm: `group_norm`, of 32 groups or the largest number below that divides the channels,
        or `none`.
      kernel_initializer: of all convolutions.
      **kwargs: arguments of `ConvBlock`.

    Raises:
      ValueError: an unknown norm.
    """
    super().__init__(kernel_initializer=kernel_initializer, **kwargs)
    if norm not in ('group_norm', 'none'):
      raise ValueError(f'norm is {norm!r}; allowed are `group_norm` and `none`: change '
                       'head.tower.plain.norm.')
    self._num_filters, self._num_convs, self._norm = num_filters, num_convs, norm
    self._convs = [self.conv(3, f'conv_{i}', num_filters) for i in range(num_convs)]
    self._norms = [norms.GroupNorm(group_size=None, name=f'norm_{i}', dtype=self.dtype_policy)
                   for i in range(num_convs if norm == 'group_norm' else 0)]

  def call(self, features: Mapping[str, tf.Tensor], training: Optional[bool] = None) -> Features:
    """Maps `{level: [batch, height, width, channels]}` to the same with `num_filters`."""
    del training
    return {level: self._run(x) for level, x in features.items()}

  def _run(self, x: tf.Tensor) -> tf.Tensor:
    for index, conv in enumerate(self._convs):
      x = conv(x)
      if self._norms:
        x = self._norms[index](x)
      x = tf.nn.relu(x)
    return x

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'num_filters': self._num_filters,
            'num_convs': self._num_convs, 'norm': self._norm}


class _TowerHead(convolutions.ConvBlock):
  """Base of heads that are two towers of features, for classes and for boxes, and predictors."""

  def __init__(self, num_classes: int, min_level: int = 3, max_level: int = 7,
               num_filters: int = 256, tower: str = 'plain',
               tower_options: Optional[Mapping[str, Any]] = None,
               prior_probability: float = 0.01, kernel_initializer: Any = _NORMAL, **kwargs):
    """Initializes the head.

    Args:
      num_classes: that are predicted.
      min_level: finest level of the features.
      max_level: coarsest level of the features.
      num_filters: channels of the towers.
      tower: a registered tower.
      tower_options: its own options.
      prior_probability: of every class at the start.
      kernel_initializer: of the predictors.
      **kwargs: arguments of `ConvBlock`; the regularizers of kernels are the towers' too.

    Raises:
      ValueError: no such tower is registered.
    """
    super().__init__(kernel_initializer=kernel_initializer, **kwargs)
    self._options = {
        'num_classes': num_classes, 'min_level': min_level, 'max_level': max_level,
        'num_filters': num_filters, 'tower': tower, 'prior_probability': prior_probability}
    # Keras wraps what is a dict, and every dict in it; `get_config` needs plain ones.
    self._tower_options = types.MappingProxyType(dict(tower_options or {}))
    self._levels = [str(level) for level in range(min_level, max_level + 1)]
    self._class_tower, self._box_tower = (
        components.build_tower(tower, self._tower_options, num_filters, name,
                               self._kernel_regularizer, self.dtype_policy)
        for name in ('class_tower', 'box_tower'))

  def class_conv(self, filters: int) -> convolutions.Conv2D:
    """Returns the predictor of classes, which starts at their prior probability."""
    prior = self._options['prior_probability']
    bias = tf_keras.initializers.Constant(-math.log((1 - prior) / prior))
    return self.conv(3, 'classes', filters, bias_initializer=bias)

  def towers(self, features: Mapping[str, tf.Tensor], training: Optional[bool]
             ) -> Tuple[Features, Features]:
    """Returns what predictors of classes and of boxes get, or says which level is missing."""
    missing = sorted(set(self._levels) - set(features))
    if missing:
      raise ValueError(f'{self.name} needs levels {", ".join(self._levels)}; {", ".join(missing)} '
                       'is missing: change model.min_level, model.max_level or the decoder.')
    features = {level: features[level] for level in self._levels}
    return (self._class_tower(features, training=training),
            self._box_tower(features, training=training))

  def exact(self, outputs: tf.Tensor) -> tf.Tensor:
    """Casts to the variables' dtype, which is float32 under mixed precision."""
    return tf.cast(outputs, self.variable_dtype)

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), **self._options, 'tower_options': dict(self._tower_options)}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DenseHead(_TowerHead):
  """Class, box and center-ness predictions at every location, shared by all levels.

  Reference: Zhi Tian et al., FCOS: Fully Convolutional One-Stage Object Detection,
  https://arxiv.org/abs/1904.01355; Shifeng Zhang et al., Bridging the Gap Between
  Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection,
  https://arxiv.org/abs/1912.02424.

  Differs: center-ness is predicted from the box tower, as in the authors' later code.
  """

  def __init__(self, num_classes: int, box_coding: str = 'distances', **kwargs):
    """Initializes the head.

    Args:
      num_classes: without background.
      box_coding: `distances`, FCOS's distances in pixels from a location to the sides of its
        box, or `deltas`, ATSS's, relative to one anchor box.
      **kwargs: arguments of every head: levels, `num_filters`, `tower`, `tower_options`,
        `prior_probability`, initializer and regularizers.

    Raises:
      ValueError: an unknown box coding or tower.
    """
    super().__init__(num_classes, **kwargs)
    if box_coding not in ('distances', 'deltas'):
      raise ValueError(f'box_coding is {box_coding!r}; allowed are `distances` and `deltas`: '
                       'change model.assigner, which chooses it.')
    self._box_coding = box_coding
    self._classes = self.class_conv(num_classes)
    self._boxes = self.conv(3, 'boxes', 4)
    self._centerness = self.conv(3, 'centerness', 1)

  def build(self, input_shape: Any) -> None:
    # Not cast to the compute dtype: float16 has steps of a pixel from 1024 pixels on.
    self.scales = self.add_weight('scales', [len(self._levels)], initializer='ones',
                                  experimental_autocast=False)
    super().build(input_shape)

  def call(self, features: Mapping[str, tf.Tensor], training: Optional[bool] = None
           ) -> Tuple[Features, Features, Dict[str, Features]]:
    """Predicts.

    Args:
      features: `{level: [batch, height, width, channels]}`, of all levels of the head.
      training: handed to the towers; None counts as False.

    Returns:
      As Model Garden's heads: class logits `{level: [batch, height, width, num_classes]}`;
      boxes `{level: [batch, height, width, 4]}`, distances to top, left, bottom and right
      side in pixels, or deltas of center y, center x, height and width; and
      `{'centerness': {level: [batch, height, width, 1]}}`, logits.  All are of the variables'
      dtype, float32 under mixed precision.

    Raises:
      ValueError: a level is missing.
    """
    of_classes, of_boxes = self.towers(features, training)
    classes = {level: self.exact(self._classes(x)) for level, x in of_classes.items()}
    boxes = {level: self._scaled(self.exact(self._boxes(x)), level)
             for level, x in of_boxes.items()}
    centerness = {level: self.exact(self._centerness(x)) for level, x in of_boxes.items()}
    return classes, boxes, {'centerness': centerness}

  def _scaled(self, boxes: tf.Tensor, level: str) -> tf.Tensor:
    boxes *= self.scales[self._levels.index(level)]
    return boxes if self._box_coding == 'deltas' else tf.nn.relu(boxes) * 2**int(level)

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'box_coding': self._box_coding}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class AnchorHead(_TowerHead):
  """RetinaNet's head, with towers of any kind: classes and boxes of several anchors.

  Reference: Tsung-Yi Lin et al., Focal Loss for Dense Object Detection,
  https://arxiv.org/abs/1708.02002, section 4.
  """

  def __init__(self, num_classes: int, num_anchors: int = 9, **kwargs):
    """Initializes the head.

    Args:
      num_classes: with background, which Model Garden predicts too.
      num_anchors: at every location.
      **kwargs: arguments of every head, see `DenseHead`.

    Raises:
      ValueError: no such tower is registered.
    """
    super().__init__(num_classes, **kwargs)
    self._num_anchors = num_anchors
    self._classes = self.class_conv(num_anchors * num_classes)
    self._boxes = self.conv(3, 'boxes', num_anchors * 4)

  def call(self, features: Mapping[str, tf.Tensor], training: Optional[bool] = None
           ) -> Tuple[Features, Features, Dict[str, Features]]:
    """Predicts.

    Args:
      features: `{level: [batch, height, width, channels]}`, of all levels of the head.
      training: handed to the towers; None counts as False.

    Returns:
      As Model Garden's heads: class logits `{level: [batch, height, width, num_anchors *
      num_classes]}`, boxes `{level: [batch, height, width, num_anchors * 4]}`, and no
      attributes.

    Raises:
      ValueError: a level is missing.
    """
    of_classes, of_boxes = self.towers(features, training)
    return ({level: self.exact(self._classes(x)) for level, x in of_classes.items()},
            {level: self.exact(self._boxes(x)) for level, x in of_boxes.items()}, {})

  def get_config(self) -> Dict[str, Any]:
    return {**super().get_config(), 'num_anchors': self._num_anchors}
