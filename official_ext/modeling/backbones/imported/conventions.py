"""What Keras Applications and torchvision do otherwise than Model Garden, by source and network."""
from collections.abc import Sequence
import dataclasses

from official.vision.ops import preprocess_ops

from official_ext.ops import checks

SOURCES = ('keras', 'torchvision')

# Network -> Model Garden's type of backbone and its `model_id`.
NETWORKS: dict[str, tuple[str, int | str]] = {
    **{f'resnet{depth}': ('resnet', depth) for depth in (50, 101, 152)},
    'resnext50_32x4d': ('resnet', 50),
    **{f'resnext101_{groups}': ('resnet', 101) for groups in ('32x4d', '32x8d', '64x4d')},
    'resnext152_32x8d': ('resnet', 152),
    'mobilenet_v1': ('mobilenet', 'MobileNetV1'),
    'mobilenet_v2': ('mobilenet', 'MobileNetV2'),
    **{f'efficientnet_b{size}': ('efficientnet', f'b{size}') for size in range(8)},
}

# ResNeXt -> groups of the 3x3 convolutions, and channels of a group in the first stage, which
# double with every stage.
CARDINALITIES = {
    'resnext50_32x4d': (32, 4), 'resnext101_32x4d': (32, 4), 'resnext101_32x8d': (32, 8),
    'resnext101_64x4d': (64, 4), 'resnext152_32x8d': (32, 8)}

# What Keras calls the mode `caffe` subtracts from pixels, red first.
_CAFFE_MEAN = (123.68, 116.779, 103.939)
_MAX_PIXEL = 255.0


@dataclasses.dataclass(frozen=True)
class Convention:
  """How a source computes a network.

  Attributes:
    epsilon: number that batch norm adds to the variance.
    stem_padding: padding of the first convolution; see `padding`.
    padding: where convolutions of stride 2 pad: `same` (TensorFlow: at even sizes less before the
      map than behind it), `symmetric` (the same on all sides) or `end` (only behind it).
    stride_in_first: whether the stride of a bottleneck is in its first 1x1 convolution; False: in
      the 3x3 convolution.
    cardinality: groups of the 3x3 convolution of a bottleneck, and channels of a group in the first
      stage; None: one group, as wide as Model Garden's block.
    scale: factor that makes the source's input of Model Garden's, one for each of red, green, blue.
    offset: what is added after that.
    normalization: the source's input in words.
  """
  epsilon: float
  stem_padding: str = 'same'
  padding: str = 'same'
  stride_in_first: bool = False
  cardinality: tuple[int, int] | None = None
  scale: Sequence[float] = (1.0, 1.0, 1.0)
  offset: Sequence[float] = (0.0, 0.0, 0.0)
  normalization: str = '(pixel / 255 - mean) / deviation of ImageNet, red first'

  @property
  def changes_input(self) -> bool:
    """Whether the source's input differs from Model Garden's."""
    return any(factor != 1 for factor in self.scale) or any(self.offset)


def convention(network: str, source: str) -> Convention:
  """Returns how a source computes a network.

  Args:
    network: a key of `NETWORKS`.
    source: one of `SOURCES`.

  Raises:
    ArgumentError: an unknown network or source, or a network that the source lacks.
  """
  checks.check_one_of('network', network, tuple(NETWORKS))
  checks.check_one_of('source', source, SOURCES)
  if source == 'torchvision':
    if network == 'mobilenet_v1':
      raise checks.ArgumentError(
          'source', "source is 'torchvision', which has no mobilenet_v1; give 'keras'.")
    is_large = network in ('efficientnet_b5', 'efficientnet_b6', 'efficientnet_b7')
    return Convention(1e-3 if is_large else 1e-5, stem_padding='symmetric', padding='symmetric',
                      cardinality=CARDINALITIES.get(network))
  if network in CARDINALITIES:
    raise checks.ArgumentError(
        'source', f"source is 'keras', which has no {network}; give 'torchvision'.")
  kind = NETWORKS[network][0]
  if kind == 'resnet':
    scale, offset = _input(_MAX_PIXEL, [-mean for mean in _CAFFE_MEAN])
    return Convention(
        1.001e-5, stem_padding='symmetric', padding='symmetric', stride_in_first=True,
        scale=scale, offset=offset, normalization='pixel - (123.68, 116.779, 103.939)')
  if kind == 'mobilenet':
    scale, offset = _input(2.0, [-1.0] * 3)
    return Convention(
        1e-3, padding='end' if network == 'mobilenet_v1' else 'same', scale=scale, offset=offset,
        normalization='pixel / 127.5 - 1')
  return Convention(1e-3)


def _input(factor: float, addends: Sequence[float]
           ) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns scale and offset that make `factor * pixel / 255 + addend` of Model Garden's input."""
  means, deviations = preprocess_ops.MEAN_NORM, preprocess_ops.STDDEV_NORM
  return (tuple(factor * deviation for deviation in deviations),
          tuple(factor * mean + addend for mean, addend in zip(means, addends)))
