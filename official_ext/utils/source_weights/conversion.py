"""Finds which network the tensors of a file are of, and puts them into that backbone."""
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from official.vision.modeling.backbones import efficientnet
from official.vision.modeling.layers import nn_layers
from official.vision.ops import preprocess_ops
import tf_keras

from official_ext.modeling.backbones import imported
from official_ext.utils import command_line
from official_ext.utils.source_weights import layer_names

Tensors = Mapping[str, np.ndarray]

_NAMED = 3
_COUNTER = '.num_batches_tracked'  # of torchvision's norms; not needed
_VARIABLES = {
    'keras': {'conv': ('kernel', 'bias'), 'depthwise': ('depthwise_kernel', 'bias'),
              'norm': ('gamma', 'beta', 'moving_mean', 'moving_variance')},
    'torchvision': {'conv': ('weight', 'bias'), 'depthwise': ('weight', 'bias'),
                    'norm': ('weight', 'bias', 'running_mean', 'running_var')},
}
_SEPARATORS = {'keras': '/', 'torchvision': '.'}
_LAST_FILTERS = 1280  # of the last convolution of EfficientNet-B0
_RESNET_CHANNELS = 64  # of the 3x3 convolutions in the first stage of ResNet
_NORMALIZATION_TOLERANCE = 1e-4


class Origin(NamedTuple):
  """Which network the tensors of a file are of, and who named them."""
  network: str
  source: str


def recognize(tensors: Tensors, source: str, path: str) -> Origin:
  """Returns the network whose layers have the names of a file's tensors.

  Args:
    tensors: name -> array, all of a file.
    source: one of `imported.SOURCES`.
    path: of the file, for the error message.

  Raises:
    CommandError: no known network; the message says what is missing in the nearest one or left
      over.
  """
  found = {name.rpartition(_SEPARATORS[source])[0] for name in _of_backbone(tensors, source)}
  differences = {}
  for network in imported.NETWORKS:
    if (network, source) == ('mobilenet_v1', 'torchvision') or (
        source == 'keras' and network in imported.CARDINALITIES):
      continue
    wanted = set(layer_names.of_network(network, source))
    differences[network] = (wanted - found, found - wanted)
    if wanted == found and _has_width(tensors, network, source):
      return Origin(network, source)
  network = min(differences, key=lambda name: sum(map(len, differences[name])))
  missing, left_over = differences[network]
  raise command_line.CommandError(
      f'--weights={path} is of no network that this command knows: {", ".join(differences)} of '
      f'{source}. {network} is the nearest: {_listed(missing)} missing, {_listed(left_over)} left '
      'over; widths other than 1 are not known.')


def _of_backbone(tensors: Tensors, source: str) -> list[str]:
  """Returns the names of the tensors that are no part of a classifier."""
  return [name for name in tensors if not name.startswith(layer_names.CLASSIFIERS[source])
          and not name.endswith(_COUNTER)]


def _has_width(tensors: Tensors, network: str, source: str) -> bool:
  """Returns whether the layer that tells networks of the same names apart has the right width.

  It is the last one of EfficientNet B1 and B2, and the first 3x3 convolution of ResNet and ResNeXt:
  `[channels, channels of a group, 3, 3]`.  The last norm of the other networks is compared when it
  is put into the backbone.
  """
  kind, model_id = imported.NETWORKS[network]
  if (kind, source) == ('resnet', 'torchvision'):
    groups, channels = imported.CARDINALITIES.get(network, (1, _RESNET_CHANNELS))
    return tensors['layer1.0.conv2.weight'].shape[:2] == (groups * channels, channels)
  if kind != 'efficientnet':
    return True
  width = nn_layers.round_filters(
      _LAST_FILTERS, efficientnet.SCALING_MAP[model_id]['width_scale'])
  last = layer_names.of_network(network, source)[-1]
  return len(tensors[last + _SEPARATORS[source] + _VARIABLES[source]['norm'][0]]) == width


def _listed(names: Sequence[str] | set[str]) -> str:
  examples = ', '.join(sorted(names)[:_NAMED])
  return f'{len(names)} layers ({examples}) are' if names else 'none is'


def put(tensors: Tensors, origin: Origin, backbone: imported.ImportedBackbone, path: str
        ) -> list[str]:
  """Puts the tensors of a file into a backbone.

  Args:
    tensors: name -> array, all of a file.
    origin: what `recognize` found.
    backbone: the built backbone of that network and source.
    path: of the file, for error messages.

  Returns:
    The names of the tensors that the backbone does not have: those of the classifier.

  Raises:
    CommandError: a tensor is missing, left over, of another shape, or not finite.
  """
  left = dict(tensors)
  bias: np.ndarray | None = None
  _check_normalization(tensors, origin, path)
  for name, layer in zip(layer_names.of_network(*origin), backbone.weighted_layers()):
    values = _taken(left, name, layer, origin.source, path)
    if isinstance(layer, tf_keras.layers.BatchNormalization):
      if bias is not None:
        values[2] = values[2] - bias  # A norm subtracts its mean, so that this adds the bias.
      bias = None
    elif not layer.use_bias:
      bias = values[1] if len(values) > 1 else None
      values = values[:1]
    if name == layer_names.of_network(*origin)[0] and _is_blue_first(origin):
      values[0] = values[0][:, :, ::-1]
    _assign(layer, name, values, path)
  unused = _of_backbone(left, origin.source)
  if unused:
    raise command_line.CommandError(
        f'--weights={path} is {origin.network} of {origin.source}, but {len(unused)} tensors are '
        f'left over, such as {", ".join(unused[:_NAMED])}.')
  return [name for name in left if not name.endswith(_COUNTER)]


def _taken(left: dict[str, np.ndarray], name: str, layer: tf_keras.layers.Layer, source: str,
           path: str) -> list[np.ndarray]:
  """Takes the tensors of a layer, in the order and with the axes of Keras."""
  is_norm = isinstance(layer, tf_keras.layers.BatchNormalization)
  is_depthwise = isinstance(layer, tf_keras.layers.DepthwiseConv2D)
  kind = 'norm' if is_norm else 'depthwise' if is_depthwise else 'conv'
  names = [name + _SEPARATORS[source] + variable for variable in _VARIABLES[source][kind]]
  missing = [name for name in names if name not in left and (is_norm or name == names[0])]
  if missing:
    raise command_line.CommandError(f'--weights={path} has no tensor {", ".join(missing)}.')
  values = [left.pop(name).astype(np.float32) for name in names if name in left]
  if source == 'torchvision' and not is_norm and values[0].ndim == 4:
    values[0] = values[0].transpose((2, 3, 0, 1) if is_depthwise else (2, 3, 1, 0))
  return values


def _assign(layer: tf_keras.layers.Layer, name: str, values: Sequence[np.ndarray], path: str
            ) -> None:
  shapes, wanted = [[list(array.shape) for array in arrays] for arrays in (values, layer.weights)]
  if shapes != wanted:
    raise command_line.CommandError(
        f'--weights={path}: layer {name} has tensors of {shapes}; the network has {wanted}. Only '
        'networks of width 1 and 3 input channels are known.')
  if not all(np.all(np.isfinite(value)) for value in values):
    raise command_line.CommandError(f'--weights={path}: layer {name} has numbers that are nan or '
                                    'infinite: get the file again.')
  layer.set_weights(values)


def _is_blue_first(origin: Origin) -> bool:
  """Returns whether the network takes blue, green, red."""
  return origin.source == 'keras' and imported.NETWORKS[origin.network][0] == 'resnet'


def _check_normalization(tensors: Tensors, origin: Origin, path: str) -> None:
  """Checks that a network that normalizes its images itself does so as Model Garden does.

  EfficientNet of Keras divides by the root of the variance in its file.  With the published files
  Keras divides by the root of ImageNet's deviations once more, which are the variances there.
  """
  mean, variance = (tensors.get(f'normalization/{name}') for name in ('mean', 'variance'))
  if origin.source != 'keras' or mean is None or variance is None:
    return
  deviations = np.array(preprocess_ops.STDDEV_NORM)
  if not (np.allclose(np.ravel(mean), preprocess_ops.MEAN_NORM, atol=_NORMALIZATION_TOLERANCE)
          and any(np.allclose(np.ravel(variance), known, atol=_NORMALIZATION_TOLERANCE)
                  for known in (deviations, deviations**2))):
    raise command_line.CommandError(
        f'--weights={path}: its layer normalization has mean {np.ravel(mean).tolist()} and '
        f'variance {np.ravel(variance).tolist()}; only the values of ImageNet, '
        f'{preprocess_ops.MEAN_NORM} and {preprocess_ops.STDDEV_NORM}, can be taken over.')
