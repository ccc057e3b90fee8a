"""The names that Keras Applications and torchvision give the layers of each network.

The order is that of `ImportedBackbone.weighted_layers`.  A convolution is followed by its norm.
"""
from collections.abc import Iterator

from official.vision.modeling.backbones import efficientnet
from official.vision.modeling.backbones import resnet

from official_ext.modeling.backbones import imported

_MOBILENET_V1_BLOCKS = 13
_MOBILENET_V2_BLOCKS = 17
# Classifiers, and what normalizes images, are no part of a backbone.
CLASSIFIERS = {'keras': ('predictions/', 'conv_preds/', 'probs/', 'normalization'),
               'torchvision': ('fc.', 'classifier.')}


def of_network(network: str, source: str) -> list[str]:
  """Returns the names of a network's layers with variables.

  Args:
    network: a key of `imported.NETWORKS`.
    source: one of `imported.SOURCES`.
  """
  kind, model_id = imported.NETWORKS[network]
  if kind == 'resnet':
    repeats = [spec[2] for spec in resnet.RESNET_SPECS[model_id]]
    return list(_keras_resnet(repeats) if source == 'keras' else _torch_resnet(repeats))
  if kind == 'efficientnet':
    depth = efficientnet.SCALING_MAP[model_id]['depth_scale']
    repeats = [efficientnet.round_repeats(spec[1], depth)
               for spec in efficientnet.EN_B0_BLOCK_SPECS]
    return list(_keras_efficientnet(repeats) if source == 'keras'
                else _torch_efficientnet(repeats))
  if network == 'mobilenet_v1':
    return list(_keras_mobilenet_v1())
  return list(_keras_mobilenet_v2() if source == 'keras' else _torch_mobilenet_v2())


def _keras_resnet(repeats: list[int]) -> Iterator[str]:
  yield from ('conv1_conv', 'conv1_bn')
  for stage, count in enumerate(repeats, 2):
    for block in range(1, count + 1):
      for part in (1, 2, 3, 0) if block == 1 else (1, 2, 3):  # 0 is the shortcut
        yield from (f'conv{stage}_block{block}_{part}_{layer}' for layer in ('conv', 'bn'))


def _torch_resnet(repeats: list[int]) -> Iterator[str]:
  yield from ('conv1', 'bn1')
  for stage, count in enumerate(repeats, 1):
    for block in range(count):
      name = f'layer{stage}.{block}'
      for part in (1, 2, 3):
        yield from (f'{name}.conv{part}', f'{name}.bn{part}')
      if block == 0:
        yield from (f'{name}.downsample.0', f'{name}.downsample.1')


def _keras_mobilenet_v1() -> Iterator[str]:
  yield from ('conv1', 'conv1_bn')
  for block in range(1, _MOBILENET_V1_BLOCKS + 1):
    for part in ('dw', 'pw'):
      yield from (f'conv_{part}_{block}', f'conv_{part}_{block}_bn')


def _keras_mobilenet_v2() -> Iterator[str]:
  yield from ('Conv1', 'bn_Conv1')
  for block in range(_MOBILENET_V2_BLOCKS):
    name = f'block_{block}' if block else 'expanded_conv'
    for part in ('expand', 'depthwise', 'project') if block else ('depthwise', 'project'):
      yield from (f'{name}_{part}', f'{name}_{part}_BN')
  yield from ('Conv_1', 'Conv_1_bn')


def _torch_mobilenet_v2() -> Iterator[str]:
  yield from ('features.0.0', 'features.0.1')
  for block in range(1, _MOBILENET_V2_BLOCKS + 1):
    name = f'features.{block}.conv'
    num_activated = 1 if block == 1 else 2
    for part in range(num_activated):
      yield from (f'{name}.{part}.0', f'{name}.{part}.1')
    yield from (f'{name}.{num_activated}', f'{name}.{num_activated + 1}')
  yield from ('features.18.0', 'features.18.1')


def _keras_efficientnet(repeats: list[int]) -> Iterator[str]:
  yield from ('stem_conv', 'stem_bn')
  for stage, count in enumerate(repeats, 1):
    for block in range(count):
      name = f'block{stage}{chr(ord("a") + block)}_'
      parts = ['dwconv', 'bn', 'se_reduce', 'se_expand', 'project_conv', 'project_bn']
      yield from (name + part for part in (
          parts if stage == 1 else ['expand_conv', 'expand_bn', *parts]))
  yield from ('top_conv', 'top_bn')


def _torch_efficientnet(repeats: list[int]) -> Iterator[str]:
  yield from ('features.0.0', 'features.0.1')
  for stage, count in enumerate(repeats, 1):
    for block in range(count):
      name = f'features.{stage}.{block}.block'
      first = 0 if stage == 1 else 1
      yield from (f'{name}.{part}.{layer}' for part in range(first + 1) for layer in (0, 1))
      yield from (f'{name}.{first + 1}.fc1', f'{name}.{first + 1}.fc2',
                  f'{name}.{first + 2}.0', f'{name}.{first + 2}.1')
  yield from ('features.8.0', 'features.8.1')
