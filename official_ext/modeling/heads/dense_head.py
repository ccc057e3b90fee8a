"""Heads of one-stage detectors: two registered towers, and predictors that follow them."""
from collections.abc import Mapping
import math
import types
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks

Features = dict[str, tf.Tensor]

LEARNED_PRIOR = 0.02  # probability of every class at the start of AutoAssign and FreeAnchor
_NORMAL = {'class_name': 'RandomNormal', 'config': {'stddev': 0.01}}
_SCALED = {'class_name': 'VarianceScaling', 'config': {}}


class _TowerHead(convolutions.ConvBlock):
  """Base of heads: a tower for classes, a tower for boxes; subclasses add the predictors."""

  def __init__(self, num_classes: int, min_level: int = 3, max_level: int = 7,
               num_filters: int = 256, tower: str = 'plain',
               tower_options: Mapping[str, Any] | None = None,
               prior_probability: float = 0.01, use_separable_conv: bool = False,
               kernel_initializer: Any | None = None, **kwargs):
    """Initializes the head.

    Args:
      num_classes: number of predicted classes.
      min_level: finest level of the features.
      max_level: coarsest level of the features.
      num_filters: channels of the towers.
      tower: name of a registered tower; the import of its module, or of `registry_imports` for all
        of the package, registers it.
      tower_options: options of this tower.
      prior_probability: probability of every class at the start of a training.
      use_separable_conv: whether the predictors are separable convolutions, as in EfficientDet.
      kernel_initializer: initializer of the predictors' kernels; None: a normal distribution of
        deviation 0.01, or EfficientDet's variance scaling for separable ones.
      **kwargs: arguments of `ConvBlock`; `kernel_regularizer` applies to the towers too.

    Raises:
      ArgumentError: no channel.
      ValueError: no tower of this name is registered, or it refuses its options.
    """
    checks.check_positive('num_filters', num_filters)
    super().__init__(kernel_initializer=(
        kernel_initializer or (_SCALED if use_separable_conv else _NORMAL)), **kwargs)
    self._options: dict[str, Any] = {
        'num_classes': num_classes, 'min_level': min_level, 'max_level': max_level,
        'num_filters': num_filters, 'tower': tower, 'prior_probability': prior_probability,
        'use_separable_conv': use_separable_conv}
    # Keras replaces dictionaries that are attributes by wrappers; `get_config` needs plain ones.
    self._tower_options = types.MappingProxyType(dict(tower_options or {}))
    self._levels = [str(level) for level in range(min_level, max_level + 1)]
    self._class_tower, self._box_tower = (
        components.build_tower(tower, self._tower_options, num_filters, name,
                               self._kernel_regularizer, self.dtype_policy)
        for name in ('class_tower', 'box_tower'))

  def predictor(self, name: str, filters: int, **options: Any) -> tf_keras.layers.Layer:
    """Makes a 3x3 convolution that predicts.

    Args:
      name: name of the convolution.
      filters: channels of the prediction.
      **options: more arguments of the convolution.
    """
    cls = (convolutions.SeparableConv2D if self._options['use_separable_conv']
           else convolutions.Conv2D)
    return self.conv(3, name, filters, cls=cls, **options)

  def class_conv(self, filters: int) -> tf_keras.layers.Layer:
    """Returns the predictor of classes, which starts at their prior probability."""
    prior = self._options['prior_probability']
    bias = tf_keras.initializers.Constant(-math.log((1 - prior) / prior))
    return self.predictor('classes', filters, bias_initializer=bias)

  def run_towers(self, features: Mapping[str, tf.Tensor], training: bool | None
                 ) -> tuple[Features, Features]:
    """Runs the towers.

    Args:
      features: `{level: [batch, height, width, channels]}`, of all levels of the head.
      training: whether the call trains; None counts as False.

    Returns:
      The inputs of the predictors of classes, and of those of boxes:
      `{level: [batch, height, width, num_filters]}`.

    Raises:
      ValueError: a level is missing.
    """
    missing = sorted(set(self._levels) - set(features))
    if missing:
      # Not an `ArgumentError`: Keras turns exceptions of `call` that need two arguments into a
      # RuntimeError.
      raise ValueError(f'{self.name} needs levels {", ".join(self._levels)}; {", ".join(missing)} '
                       'is missing: change min_level, max_level or the decoder.')
    features = {level: features[level] for level in self._levels}
    return (self._class_tower(features, training=training),
            self._box_tower(features, training=training))

  def in_variable_dtype(self, outputs: tf.Tensor) -> tf.Tensor:
    """Casts outputs to the dtype of variables, which is float32 under mixed precision."""
    return tf.cast(outputs, self.variable_dtype)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), **self._options, 'tower_options': dict(self._tower_options)}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class DenseHead(_TowerHead):
  """Predicts classes, a box and its center-ness at every location; all levels share weights.

  Reference: Zhi Tian et al., FCOS: Fully Convolutional One-Stage Object Detection,
  https://arxiv.org/abs/1904.01355; Shifeng Zhang et al., Bridging the Gap Between
  Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection,
  https://arxiv.org/abs/1912.02424.

  Differs: by default center-ness is predicted from the box tower, and distances are ReLU of a
  prediction in strides, as in the later code of FCOS's authors.  The paper predicts center-ness
  from the class tower, and distances in pixels by an exponential.
  """
  _QUALITY = 'centerness'  # what is predicted of a location beside classes and a box
  _BOX_BIAS = 0.0

  def __init__(self, num_classes: int, box_coding: str = 'distances',
               distance_activation: str = 'relu', centerness_tower: str = 'box', **kwargs):
    """Initializes the head.

    Args:
      num_classes: number of classes, background not included.
      box_coding: `distances` in pixels from a location to the sides of its box, as in FCOS, or
        `deltas` relative to one anchor box, as in ATSS.
      distance_activation: how predictions become distances: `relu`, their ReLU times the stride
        of the level, or `exp`, their exponential in pixels.
      centerness_tower: the tower from which center-ness is predicted, `box` or `class`.
      **kwargs: arguments of every head: `min_level`, `max_level`, `num_filters`, `tower`,
        `tower_options`, `prior_probability`, `use_separable_conv`, initializer and regularizers.

    Raises:
      ArgumentError: an unknown option, or `exp` with deltas.
      ValueError: an unknown tower, or one that refuses its options.
    """
    super().__init__(num_classes, **kwargs)
    checks.check_one_of('box_coding', box_coding, ('distances', 'deltas'))
    checks.check_one_of('distance_activation', distance_activation, ('relu', 'exp'))
    checks.check_one_of('centerness_tower', centerness_tower, ('box', 'class'))
    if box_coding == 'deltas' and distance_activation != 'relu':
      raise checks.ArgumentError(
          'distance_activation', f'distance_activation is {distance_activation!r}, but this '
          "assigner predicts deltas, not distances; it must be 'relu', which is not used.")
    self._box_coding, self._distance_activation = box_coding, distance_activation
    self._centerness_tower = centerness_tower
    self._classes = self.class_conv(num_classes)
    self._boxes = self.predictor('boxes', 4, bias_initializer=tf_keras.initializers.Constant(
        self._BOX_BIAS))
    self._centerness = self.predictor(self._QUALITY, 1)

  def build(self, input_shape: Any) -> None:
    # Not cast to the compute dtype: above 1024 pixels float16 represents only whole pixels.
    self.scales = self.add_weight('scales', [len(self._levels)], initializer='ones',
                                  experimental_autocast=False)
    super().build(input_shape)

  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None
           ) -> tuple[Features, Features, dict[str, Features]]:
    """Predicts classes and boxes.

    Args:
      features: `{level: [batch, height, width, channels]}`, of all levels of the head.
      training: whether the call trains; None counts as False.

    Returns:
      The same three results as Model Garden's heads.  Class logits
      `{level: [batch, height, width, num_classes]}`;
      boxes `{level: [batch, height, width, 4]}`, distances to top, left, bottom and right
      side in pixels, or deltas of center y, center x, height and width; and
      `{'centerness': {level: [batch, height, width, 1]}}`, logits.  All have the dtype of
      variables, which is float32 under mixed precision.

    Raises:
      ValueError: a level is missing.
    """
    class_features, box_features = self.run_towers(features, training)
    centerness_features = class_features if self._centerness_tower == 'class' else box_features
    classes = {level: self.in_variable_dtype(self._classes(x))
               for level, x in class_features.items()}
    boxes = {level: self._scaled(self.in_variable_dtype(self._boxes(x)), level)
             for level, x in box_features.items()}
    centerness = {level: self.in_variable_dtype(self._centerness(x))
                  for level, x in centerness_features.items()}
    return classes, boxes, {self._QUALITY: centerness}

  def _scaled(self, boxes: tf.Tensor, level: str) -> tf.Tensor:
    boxes *= self.scales[self._levels.index(level)]
    if self._box_coding == 'deltas':
      return boxes
    if self._distance_activation == 'exp':
      return tf.exp(boxes)
    return tf.nn.relu(boxes) * 2**int(level)

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'box_coding': self._box_coding,
            'distance_activation': self._distance_activation,
            'centerness_tower': self._centerness_tower}


@tf_keras.utils.register_keras_serializable(package='official_ext')
class AutoAssignHead(DenseHead):
  """Predicts classes, a box and its objectness, and learns where in a box its class is seen.

  `call` returns `{'objectness': ...}` instead of center-ness.  Class probability times objectness
  is the score.  A new head predicts boxes with sides of eight strides, because ReLU of a bias of 4
  is above 0.

  Reference: Benjin Zhu et al., AutoAssign: Differentiable Label Assignment for Dense Object
  Detection, https://arxiv.org/abs/2007.03496, section 3, and the authors' code.
  """
  _QUALITY = 'objectness'
  _BOX_BIAS = 4.0

  def __init__(self, num_classes: int, prior_probability: float = LEARNED_PRIOR, **kwargs):
    """Initializes the head.

    Args:
      num_classes: number of classes, background not included.
      prior_probability: probability of every class at the start of a training.
      **kwargs: arguments of `DenseHead`; `centerness_tower` is the tower of the objectness.

    Raises:
      ArgumentError: distances that are no ReLU, or deltas.
      ValueError: an unknown tower, or one that refuses its options.
    """
    super().__init__(num_classes, prior_probability=prior_probability, **kwargs)
    for argument, value, only in (('box_coding', self._box_coding, 'distances'),
                                  ('distance_activation', self._distance_activation, 'relu')):
      if value != only:
        raise checks.ArgumentError(
            argument, f'{argument} is {value!r}; with AutoAssign it must be {only!r}.')

  def build(self, input_shape: Any) -> None:
    shape = [self._options['num_classes'], 2]
    self.center_offsets, self.center_spreads = (
        self.add_weight(name, shape, initializer=initializer, experimental_autocast=False)
        for name, initializer in (('center_offsets', 'zeros'), ('center_spreads', 'ones')))
    super().build(input_shape)

  def center_prior(self) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the center prior of each class, eq. 2, which only the losses use.

    Returns:
      `[num_classes, 2]`, y and x of the mean, in strides from the center of a box (mu), and
      `[num_classes, 2]`, the standard deviations in strides (sigma), in the dtype of variables.
    """
    return tf.identity(self.center_offsets), tf.identity(self.center_spreads)


@tf_keras.utils.register_keras_serializable(package='official_ext')
class AnchorHead(_TowerHead):
  """Predicts classes and boxes of several anchors, as RetinaNet's head, after registered towers.

  Reference: Tsung-Yi Lin et al., Focal Loss for Dense Object Detection,
  https://arxiv.org/abs/1708.02002, section 4.
  """

  def __init__(self, num_classes: int, num_anchors: int = 9, **kwargs):
    """Initializes the head.

    Args:
      num_classes: number of classes that are predicted; Model Garden's RetinaNet has one for the
        background.
      num_anchors: number of anchors at every location.
      **kwargs: arguments of every head, see `DenseHead`.

    Raises:
      ValueError: an unknown tower, or one that refuses its options.
    """
    super().__init__(num_classes, **kwargs)
    self._num_anchors = num_anchors
    self._classes = self.class_conv(num_anchors * num_classes)
    self._boxes = self.predictor('boxes', num_anchors * 4)

  def call(self, features: Mapping[str, tf.Tensor], training: bool | None = None
           ) -> tuple[Features, Features, dict[str, Features]]:
    """Predicts classes and boxes.

    Args:
      features: `{level: [batch, height, width, channels]}`, of all levels of the head.
      training: whether the call trains; None counts as False.

    Returns:
      The same three results as Model Garden's heads.  Class logits
      `{level: [batch, height, width, num_anchors * num_classes]}`; boxes
      `{level: [batch, height, width, num_anchors * 4]}`; and no attributes.

    Raises:
      ValueError: a level is missing.
    """
    class_features, box_features = self.run_towers(features, training)
    classes = {level: self.in_variable_dtype(self._classes(x))
               for level, x in class_features.items()}
    boxes = {level: self.in_variable_dtype(self._boxes(x)) for level, x in box_features.items()}
    return classes, boxes, {}

  def get_config(self) -> dict[str, Any]:
    return {**super().get_config(), 'num_anchors': self._num_anchors}
