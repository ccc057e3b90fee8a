"""Modules that the papers' authors released, in PyTorch: the other side of `authors.py`.

    python benchmarks/torch_authors.py --module=dyfpn --source=FILE --image_size=512 --share=1

A worker like `torch_peers.py`.  It imports the authors' file without mmdetection and cvpods, of
which it gives the few names that the file imports.  Where the authors have a kernel for CUDA alone,
the dynamic head, it runs the module as they train it, which computes all positions.
"""
import argparse
import importlib.util
import sys
import types

import torch
from torch import nn
import torch_peers

MODULES = ('dyfpn', 'dynamic_head')
RESNET_CHANNELS = [256, 512, 1024, 2048]  # C2 to C5.
_BIAS = 30.0


class _Fields(dict):
  """Stands for `prodict.Prodict`: a dictionary whose values are attributes."""

  __getattr__ = dict.__getitem__


class _Convolution(nn.Conv2d):
  """Stands for a convolution of cvpods, which has a norm."""

  def __init__(self, *args, norm=None, **kwargs):
    super().__init__(*args, **kwargs)
    self.norm = norm

  def forward(self, x):
    x = super().forward(x)
    return x if self.norm is None else self.norm(x)


def _conv_module(inputs, filters, size, padding=0, dilation=1, **options):
  """Stands for mmcv's `ConvModule`, without norm and activation."""
  if options.get('norm_cfg') or options.get('act_cfg'):
    raise ValueError(f'{options} are not those of the released experiments.')
  return nn.Conv2d(inputs, filters, size, padding=padding, dilation=dilation)


class _Neck(nn.Module):
  """Stands for mmdetection's FPN, all of whose parts DyFPN replaces."""

  def __init__(self, in_channels, out_channels, num_outs):
    del in_channels, out_channels, num_outs
    super().__init__()


def _unchanged(*_):
  """Returns a decorator that does nothing."""
  return lambda decorated: decorated


def _imported(name, path, names):
  """Returns the module of a file.

  Args:
    name: its full name, in whose packages the file looks for its own imports.
    path: of the file.
    names: module -> the names that stand in for those of it.
  """
  parents = {name.rsplit('.', count)[0] for count in range(1, name.count('.') + 1)}
  for module in sorted({*parents, *names}):
    sys.modules[module] = types.ModuleType(module)
    sys.modules[module].__dict__.update({'__path__': [], **names.get(module, {})})
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def dyfpn(path, share):
  """Returns the neck of DyFPN, block B, on C2 to C5, every gate open (1) or shut (0)."""
  registry = types.SimpleNamespace(register_module=_unchanged)
  neck = _imported('mmdet.models.necks.authors', path, {
      'mmcv.cnn': {'ConvModule': _conv_module, 'xavier_init': None},
      'mmdet.core': {'auto_fp16': _unchanged}, 'mmdet.models.builder': {'NECKS': registry},
      'mmdet.models.necks.fpn': {'FPN': _Neck}}).DyFPN_B_CNNGate(RESNET_CHANNELS, 256, 5)
  for number in range(len(RESNET_CHANNELS)):
    # A gate opens if the second of its two logits is the larger one; the module adds noise to both.
    getattr(neck, f'gate_{number}').fc2.bias.data = torch.tensor([0, _BIAS * (2 * share - 1)])
  return neck.eval()


def dynamic_head(path, _):
  """Returns a tower of one block of the dynamic head with 256 channels."""
  layers = _imported('cvpods.layers.authors', path, {
      'prodict': {'Prodict': _Fields}, 'cvpods.layers.wrappers': {'Conv2d': _Convolution},
      'cvpods.layers.batch_norm': {'get_activation': lambda options: nn.ReLU(options.INPLACE),
                                   'get_norm': lambda _, channels: nn.GroupNorm(32, channels)},
      'cvpods.layers.masked_conv': {'masked_conv2d': None}})
  options = {'kernel_size': 3, 'padding': 1, 'gate_activation': 'GeReTanH',
             'gate_activation_kargs': {'tau': 1.5}}
  depth = layers.DynamicBottleneck(256, 256, **options)
  return layers.DynamicScale(256, 256, depth_module=depth, **options).train()


def features(module, image_size):
  """Returns random features of one image, a list of `[1, channels, side, side]`."""
  channels = dict(zip(range(2, 6), RESNET_CHANNELS)) if module == 'dyfpn' else dict.fromkeys(
      range(3, 8), 256)
  generator = torch.Generator().manual_seed(0)
  return [torch.randn(1, depth, image_size >> level, image_size >> level, generator=generator)
          for level, depth in channels.items()]


def main() -> None:
  """Runs the worker."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--module', required=True, choices=MODULES, help='what to time')
  parser.add_argument('--source', required=True, help="the authors' file")
  parser.add_argument('--image_size', type=int, required=True, help='side in pixels')
  parser.add_argument('--threads', type=int, default=1, help='(1)')
  parser.add_argument('--share', type=float, required=True,
                      help='of the gates of DyFPN that are open, 0 or 1')
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  network = {'dyfpn': dyfpn, 'dynamic_head': dynamic_head}[args.module](args.source, args.share)
  with torch.inference_mode():
    torch_peers.answer(network, [features(args.module, args.image_size)])


if __name__ == '__main__':
  main()
