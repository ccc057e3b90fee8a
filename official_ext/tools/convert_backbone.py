"""Makes a backbone checkpoint of ImageNet weights of Keras Applications or torchvision.

The network is recognized by the names of its layers:

  ResNet-50, -101, -152     .h5 and .keras of Keras Applications, .pth of torchvision
  ResNeXt-50-32x4d, -101-32x8d, -101-64x4d    .pth
  MobileNetV1               .h5 and .keras
  MobileNetV2               .h5, .keras and .pth
  EfficientNet B0 to B7     .h5, .keras and .pth

The checkpoint is for `backbone.type: imported`, which computes the features of the source, or for
the types of ResNeXt and of deformable ResNets that bear the network's name (`resnet101_dcn`).  The
command prints the overrides that a training needs.
"""
import argparse
from collections.abc import Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from official_ext.utils import command_line
from official_ext.utils import files

_EPILOG = """example:
  python -m official_ext.tools.convert_backbone --weights=resnet101-63fe2227.pth \\
    --output_dir=runs/resnet101
  python -m official_ext.train --experiment=fasterrcnn_dyfpn_resnet50_coco \\
    --config_file=configs/fasterrcnn/dyfpn_resnet101_1x.yaml --mode=train_and_eval \\
    --model_dir=runs/dyfpn_resnet101 --params_override=WHAT_THE_COMMAND_PRINTED"""
_MARKER = 'origin.json'
# Further files of the folder of a checkpoint, as patterns.
_WRITES = ('checkpoint', 'ckpt-*')
_TORCH_SUFFIXES = ('.pth', '.pt')
_LICENSE = ('The weights keep the license of their source: see that of the file that was '
            'converted, and of ImageNet, before you pass them on.')


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.convert_backbone', description=__doc__, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--weights', required=True, type=pathlib.Path, metavar='FILE',
                      help='weights or a whole model of Keras (.h5, .keras), or a state_dict of '
                      'PyTorch (.pth); PyTorch is not needed')
  parser.add_argument('--output_dir', required=True, type=pathlib.Path, metavar='DIR',
                      help=f'folder for the checkpoint and {_MARKER}; one that this command made '
                      'is replaced')
  return parser.parse_args(arguments)


def convert(weights: pathlib.Path, folder: pathlib.Path) -> dict[str, Any]:
  """Converts a file.

  Args:
    weights: the file.
    folder: to write the checkpoint `ckpt-1` into.

  Returns:
    Where the weights are from, and what they need, in plain JSON types.

  Raises:
    CommandError: no such file, or not the weights of a known network.
  """
  import tensorflow as tf  # imported here because it takes seconds

  from official_ext.modeling.backbones import imported
  from official_ext.utils.source_weights import conversion
  if not weights.is_file():
    raise command_line.CommandError(f'--weights={weights}: no such file.')
  source, tensors = _read(weights)
  origin = conversion.recognize(tensors, source, str(weights))
  backbone = imported.ImportedBackbone(*origin)
  left_out = conversion.put(tensors, origin, backbone, str(weights))
  prefix = files.plain_path(folder / 'ckpt')
  tf.train.Checkpoint(backbone=backbone).save(prefix)
  return {
      'file': weights.name,
      'sha256': hashlib.sha256(weights.read_bytes()).hexdigest(),
      **origin._asdict(),
      'left_out': left_out,
      'normalization_of_the_source': backbone.convention.normalization,
      'norm_epsilon': backbone.convention.epsilon,
      'license': _LICENSE,
  }


def _read(weights: pathlib.Path) -> tuple[str, Mapping[str, np.ndarray]]:
  """Returns the source and the tensors of a file."""
  from official_ext.utils.source_weights import keras_files
  from official_ext.utils.source_weights import torch_files
  if weights.suffix in _TORCH_SUFFIXES:
    return 'torchvision', torch_files.read(weights)
  return 'keras', keras_files.read(weights)


def overrides(output_dir: pathlib.Path, origin: Mapping[str, Any]) -> str:
  """Returns the value of --params_override with which a training starts from the checkpoint.

  ResNeXt has types of its own, which also YAML files of published rows name.  These files keep
  theirs, which may be the deformable one.
  """
  from official_ext.modeling.backbones import imported
  fields = {'task.init_checkpoint': output_dir, 'task.init_checkpoint_modules': 'backbone'}
  if origin['network'] in imported.NAMED:
    fields['task.model.backbone.type'] = origin['network']
  else:
    fields |= {'task.model.backbone.type': 'imported',
               'task.model.backbone.imported.network': origin['network'],
               'task.model.backbone.imported.source': origin['source']}
  return ','.join(f'{field}={value}' for field, value in fields.items())


def main(arguments: Sequence[str] | None = None) -> None:
  """Converts a file; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  files.check_own_output(args.output_dir, _MARKER, _WRITES, reads=[args.weights])
  with files.atomic_directory(args.output_dir) as folder:
    origin = convert(args.weights, folder)
    origin['params_override'] = overrides(args.output_dir, origin)
    (folder / _MARKER).write_text(json.dumps(origin, indent=2) + '\n', encoding='utf-8')
  left_out = f'; left out: {", ".join(origin["left_out"])}' if origin['left_out'] else ''
  command_line.say(f'{args.weights} is {origin["network"]} of {origin["source"]}{left_out}')
  command_line.say(f'written: {args.output_dir}; train with')
  command_line.say(f'  --params_override={origin["params_override"]}')
  command_line.say(_LICENSE)


if __name__ == '__main__':
  command_line.run(main)
