"""Inception FPN: a pyramid whose laterals are sums of convolutions with several receptive fields.

Reference: Mingjian Zhu, Kai Han, Changbin Yu, Yunhe Wang, Dynamic Feature Pyramid
Networks for Object Detection, https://arxiv.org/abs/2012.00779, section 3.1.
"""
from collections.abc import Sequence
import dataclasses
import re
from typing import Any

import tensorflow as tf, tf_keras

from official_ext.configs import components
from official_ext.modeling.decoders import pyramid
from official_ext.modeling.layers import convolutions
from official_ext.ops import checks

ALL_BRANCHES = ('1x1', '3x3', '3x3d2', '3x3d3', '5x5', '5x5d2', '5x5d3')


def parse_branch(branch: str) -> tuple[int, int]:
  """Returns kernel size and dilation rate of a branch such as `5x5d2`, or raises ArgumentError."""
  match = re.fullmatch(r'([1-9]\d*)x\1(?:d([1-9]\d*))?', branch)
  if not match or int(match[1]) % 2 == 0:
    raise checks.ArgumentError(
        'branches', f'branches has {branch!r}; allowed are odd kernels, with or without dilation, '
        'such as `3x3` or `5x5d2`.')
  return int(match[1]), int(match[2] or 1)


def _check_branches(branches: Sequence[str]) -> None:
  """Raises an ArgumentError unless there are branches that can be read and name variables."""
  if not branches:
    raise checks.ArgumentError(
        'branches', 'branches is empty; give at least one branch, such as `1x1`.')
  for branch in branches:
    parse_branch(branch)
  twice = sorted({branch for branch in branches if list(branches).count(branch) > 1})
  if twice:
    raise checks.ArgumentError(
        'branches', f'branches has {", ".join(twice)} more than once; all must differ.')


@dataclasses.dataclass
class InceptionFPNConfig(pyramid.PyramidConfig):
  """Options of `InceptionFPN`; see its arguments."""
  branches: list[str] = dataclasses.field(default_factory=lambda: list(ALL_BRANCHES))
  branch_init_scale: float = 1.0


@tf_keras.utils.register_keras_serializable(package='official_ext')
class InceptionLateral(tf_keras.layers.Layer):
  """The sum of parallel convolutions of one map (DyFPN, eq. 3).

  Convolutions of one dilation rate are one convolution with the sum of their kernels, the smaller
  ones surrounded by zeros.  Training computes this: all seven branches have 103 taps, the sums 75.
  Inference does not, because it would add large kernels for every image; an export has the sums in
  its constants.
  """

  def __init__(self, filters: int, branches: Sequence[str],
               kernel_initializers: Sequence[Any], kernel_regularizer: Any | None = None,
               bias_regularizer: Any | None = None, **kwargs):
    """Initializes the layer.

    Args:
      filters: channels of the result.
      branches: kernel size and dilation rate of each convolution, such as `1x1` or `5x5d2`.
      kernel_initializers: one initializer per branch.
      kernel_regularizer: regularizer of all kernels.
      bias_regularizer: regularizer of all biases.
      **kwargs: arguments of `tf_keras.layers.Layer`.

    Raises:
      ArgumentError: no branch, one that cannot be read, one twice, or other than one initializer
        per branch.
    """
    super().__init__(**kwargs)
    _check_branches(branches)
    if len(kernel_initializers) != len(branches):
      raise checks.ArgumentError(
          'kernel_initializers', f'kernel_initializers has {len(kernel_initializers)} values; it '
          f'must have one for each of the {len(branches)} branches.')
    self._branches = list(branches)
    self.convs = []
    for branch, initializer in zip(branches, kernel_initializers):
      kernel_size, dilation = parse_branch(branch)
      self.convs.append(convolutions.Conv2D(
          filters, kernel_size, dilation_rate=dilation, kernel_initializer=initializer,
          kernel_regularizer=kernel_regularizer, bias_regularizer=bias_regularizer,
          dtype=self.dtype_policy, name=f'conv_{branch}'))

  @property
  def taps(self) -> list[int]:
    """Kernel height times kernel width of each branch."""
    return [parse_branch(branch)[0]**2 for branch in self._branches]

  def build(self, input_shape: tf.TensorShape) -> None:
    convolutions.build_in_scope(self.convs, [input_shape] * len(self.convs))
    super().build(input_shape)

  def branch_outputs(self, inputs: tf.Tensor) -> list[tf.Tensor]:
    """Returns the result of each branch, for pictures of what a level sees."""
    return [conv(inputs) for conv in self.convs]

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """Adds all branches.

    Args:
      inputs: `[batch, height, width, channels]`.
      training: whether kernels are added before the convolutions; None counts as False.

    Returns:
      `[batch, height, width, filters]`.
    """
    return tf.add_n(self._merged_outputs(inputs) if training else self.branch_outputs(inputs))

  def _merged_outputs(self, inputs: tf.Tensor) -> list[tf.Tensor]:
    """Returns the sum of the branches of each dilation rate."""
    groups: dict[int, list[convolutions.Conv2D]] = {}
    for branch, conv in zip(self._branches, self.convs):
      groups.setdefault(parse_branch(branch)[1], []).append(conv)
    return [_convolve_merged(inputs, convs) for convs in groups.values()]

  def get_config(self) -> dict[str, Any]:
    first = self.convs[0]
    return {
        **super().get_config(),
        'filters': first.filters,
        'branches': list(self._branches),
        'kernel_initializers': [
            tf_keras.initializers.serialize(conv.kernel_initializer) for conv in self.convs],
        'kernel_regularizer': tf_keras.regularizers.serialize(first.kernel_regularizer),
        'bias_regularizer': tf_keras.regularizers.serialize(first.bias_regularizer),
    }


def glorot(scale: float) -> tf_keras.initializers.Initializer:
  """Returns an initializer of this share of Glorot's variance."""
  return tf_keras.initializers.VarianceScaling(scale, 'fan_avg', 'uniform')


def _convolve_merged(inputs: tf.Tensor, convs: Sequence[convolutions.Conv2D]) -> tf.Tensor:
  """Returns the sum of built convolutions of odd kernels and one dilation rate."""
  largest = max(convs, key=lambda conv: conv.kernel_size)
  kernels = []
  for conv in convs:
    margin = (largest.kernel_size[0] - conv.kernel_size[0]) // 2
    kernels.append(tf.pad(conv.kernel, [[margin, margin], [margin, margin], [0, 0], [0, 0]]))
  outputs = largest.convolution_op(inputs, tf.add_n(kernels))
  return tf.nn.bias_add(outputs, tf.add_n([conv.bias for conv in convs]))


@components.register_decoder('inception_fpn', InceptionFPNConfig)
@tf_keras.utils.register_keras_serializable(package='official_ext')
class InceptionFPN(pyramid.PyramidDecoder):
  """FPN whose laterals are sums of convolutions with several sizes and dilation rates.

  `branches: ['1x1']` is FPN, `['7x7']` a static lateral of Figure 4; all seven branches are the
  network in the last row of Table 2.

  Reference: see the module.

  Differs: batch norm after the output convolutions by default, as in Model Garden's FPN;
  `norm: none` is the paper's form.
  """

  def __init__(self, branches: Sequence[str] = ALL_BRANCHES, branch_init_scale: float = 1.0,
               **kwargs):
    """Initializes the decoder.

    Args:
      branches: kernel sizes and dilation rates of the laterals, such as `5x5d2`.
      branch_init_scale: initial variance of the branches' kernels, as a share of Glorot's.
        1 is the paper's value; small values train better in short schedules.  The first branch
        is FPN's lateral and always starts with Glorot's variance, but in DyFPN: there block B has
        a lateral beside the branches, and the branches of block A share one at the start, see
        `initializers.AlikeBranches`.
      **kwargs: arguments of `PyramidDecoder`.

    Raises:
      ArgumentError: a branch that cannot be read, one twice, no branch, or a scale that is not
        positive.
    """
    super().__init__(**kwargs)
    _check_branches(branches)
    checks.check_positive('branch_init_scale', branch_init_scale)
    self._branches = list(branches)
    self._branch_init_scale = branch_init_scale
    self.laterals = self._build_laterals()

  def _build_laterals(self) -> dict[str, InceptionLateral]:
    """Makes the branches of every level."""
    return {level: self._lateral(level) for level in self.backbone_levels}

  def _initializers(self) -> list[tf_keras.initializers.Initializer]:
    """Returns the initializer of each branch's kernel of one level."""
    return [glorot(1.0), *(glorot(self._branch_init_scale) for _ in self._branches[1:])]

  def _lateral(self, level: str) -> InceptionLateral:
    return InceptionLateral(
        self._num_filters, self._branches, self._initializers(), self._kernel_regularizer,
        self._bias_regularizer, dtype=self.dtype_policy, name=f'lateral_{level}')

  def build_pyramid(self, inputs: pyramid.Features, training: bool | None) -> pyramid.Features:
    return self.top_down(
        {level: self.laterals[level](inputs[level], training=training) for level in inputs})

  def get_config(self) -> dict[str, Any]:
    return {
        **super().get_config(),
        'branches': list(self._branches),
        'branch_init_scale': self._branch_init_scale,
    }
