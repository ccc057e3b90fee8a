"""Compares converted backbones with torchvision's own networks, with random weights.

    .venv/bin/python scripts/check_torchvision.py --torch_python=PYTHON
    .venv/bin/python scripts/check_torchvision.py --torch_python=PYTHON --networks=resnet50

PYTHON is the interpreter of another environment, in which `pip install torch torchvision` was done;
the environment of this project has neither.  There every network gets random weights and random
statistics of its norms, and computes the features of levels 2 to 5 for random images of even and
of odd sizes.  Here the files are converted, and the features compared.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

TOLERANCE = 1e-4  # of the largest feature of a level
SIZES = ((64, 96), (65, 77))
# Network -> the parts of torchvision's network that end levels 2 to 5.
LEVELS = {
    **{f'resne{name}': ('layer1', 'layer2', 'layer3', 'layer4') for name in (
        't50', 't101', 't152', 'xt50_32x4d', 'xt101_32x8d', 'xt101_64x4d')},
    'mobilenet_v2': ('features.3', 'features.6', 'features.13', 'features.17'),
    **{f'efficientnet_b{size}': ('features.2', 'features.3', 'features.5', 'features.7')
       for size in range(8)},
}


def make(network: str, folder: pathlib.Path) -> None:
  """Writes weights and features; runs in the environment with torchvision."""
  import torch
  import torchvision
  torch.manual_seed(0)
  model = getattr(torchvision.models, network)(weights=None).eval()
  for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
      for tensor, low, high in ((module.weight, 0.6, 1.4), (module.bias, -0.3, 0.3),
                                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5)):
        torch.nn.init.uniform_(tensor, low, high)
  features = {}
  for level, name in enumerate(LEVELS[network], 2):
    model.get_submodule(name).register_forward_hook(
        lambda _, __, output, level=level: features.update({level: output}))
  arrays = {}
  for number, size in enumerate(SIZES):
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
      model(images)
    arrays[f'images_{number}'] = images.permute(0, 2, 3, 1).numpy()
    for level, values in features.items():
      arrays[f'level_{level}_{number}'] = values.permute(0, 2, 3, 1).numpy()
  np.savez(folder / 'features.npz', **arrays)
  torch.save(model.state_dict(), folder / 'weights.pth')
  torch.save(model.state_dict(), folder / 'old.pth', _use_new_zipfile_serialization=False)


def compare(network: str, folder: pathlib.Path) -> float:
  """Returns the largest difference, as a share of the largest feature of its level."""
  import tensorflow as tf

  from official_ext.modeling.backbones import imported
  from official_ext.tools import convert_backbone
  from official_ext.utils.source_weights import torch_files
  new, old = (torch_files.read(folder / name) for name in ('weights.pth', 'old.pth'))
  if set(new) != set(old) or any(np.any(new[name] != old[name]) for name in new):
    raise SystemExit('the two forms of the file do not give the same tensors')
  origin = convert_backbone.convert(folder / 'weights.pth', folder)
  if (origin['network'], origin['source']) != (network, 'torchvision'):
    raise SystemExit(f'{network} was taken for {origin["network"]} of {origin["source"]}')
  backbone = imported.ImportedBackbone(network, 'torchvision')
  tf.train.Checkpoint(backbone=backbone).read(
      str(folder / 'ckpt-1')).assert_existing_objects_matched()
  worst = 0.0
  with np.load(folder / 'features.npz') as arrays:
    for number in range(len(SIZES)):
      outputs = backbone(arrays[f'images_{number}'], training=False)
      for level in backbone.output_specs:
        wanted, found = arrays[f'level_{level}_{number}'], outputs[level].numpy()
        if wanted.shape != found.shape:
          raise SystemExit(f'{network}: level {level} is {found.shape}, not {wanted.shape}')
        worst = max(worst, float(np.max(np.abs(wanted - found)) / np.max(np.abs(wanted))))
  return worst


def main() -> None:
  """Makes, converts and compares every network; the exit status is 1 if one differs."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--torch_python', metavar='PYTHON', required=True,
                      help='interpreter of an environment with torch and torchvision')
  parser.add_argument('--networks', default=','.join(LEVELS), metavar='A,B,...',
                      help=f'default: all, {", ".join(LEVELS)}')
  parser.add_argument('--make', type=pathlib.Path, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.make:
    make(args.networks, args.make)
    return
  is_wrong = False
  for network in args.networks.split(','):
    with tempfile.TemporaryDirectory() as folder:
      subprocess.run([args.torch_python, __file__, f'--torch_python={args.torch_python}',
                      f'--networks={network}', f'--make={folder}'], check=True)
      difference = compare(network, pathlib.Path(folder))
    is_wrong |= difference > TOLERANCE
    print(f'{network}: differs by {difference:.1e} of the largest feature of a level', flush=True)
  sys.exit(int(is_wrong))


if __name__ == '__main__':
  main()
