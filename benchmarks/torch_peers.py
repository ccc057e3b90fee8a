"""Detectors in plain PyTorch, in the shape of mmdetection's: the other side of `peers.py`.

    python benchmarks/torch_peers.py --network=retinanet_fpn --image_size=512 --mode=eager

A worker: it says `ready`, and for every line on standard input it runs the network once and prints
the seconds.  It needs PyTorch alone and stops before the decoding of boxes, which the exports do.
Weights are random: time does not depend on them.
"""
import argparse
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional

FILTERS, CLASSES, ANCHORS = 256, 90, 9
NETWORKS = ('retinanet_fpn', 'retinanet_inception_fpn', 'fcos_fpn', 'fcos_dynamichead')
BRANCHES = ((1, 1), (3, 1), (3, 2), (3, 3), (5, 1), (5, 2), (5, 3))  # kernel size, dilation


def conv(inputs, filters, size, stride=1, dilation=1, bias=False):
  """Returns a convolution that keeps the size of the map, but for its stride."""
  return nn.Conv2d(inputs, filters, size, stride, dilation * (size // 2), dilation, bias=bias)


class Bottleneck(nn.Module):
  """A residual block of ResNet-50."""

  def __init__(self, inputs, width, stride):
    super().__init__()
    self.branch = nn.Sequential(
        conv(inputs, width, 1), nn.BatchNorm2d(width), nn.ReLU(True),
        conv(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(True),
        conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width))
    self.skip = nn.Identity()
    if inputs != 4 * width:
      self.skip = nn.Sequential(conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

  def forward(self, x):
    return functional.relu(self.skip(x) + self.branch(x), True)


class Lateral(nn.Module):
  """The sum of the branches of an inception FPN's lateral; of one branch, FPN's."""

  def __init__(self, inputs, branches):
    super().__init__()
    self.branches = nn.ModuleList(
        conv(inputs, FILTERS, size, 1, dilation, True) for size, dilation in branches)

  def forward(self, x):
    return sum(branch(x) for branch in self.branches)


class Tower(nn.Module):
  """Four convolutions and predictors of one kind."""

  def __init__(self, outputs, has_norm):
    super().__init__()
    layers = []
    for _ in range(4):
      layers.append(conv(FILTERS, FILTERS, 3, bias=not has_norm))
      if has_norm:
        layers.append(nn.GroupNorm(32, FILTERS))
      layers.append(nn.ReLU(True))
    self.convs = nn.Sequential(*layers)
    self.predictors = nn.ModuleList(conv(FILTERS, count, 3, bias=True) for count in outputs)

  def forward(self, levels):
    return [[predictor(x) for predictor in self.predictors] for x in map(self.convs, levels)]


class Gate(nn.Module):
  """A map in [0, 1]: a restricted tanh of a convolution (Fine-Grained Dynamic Head, eq. 3)."""

  TAU = 1.5

  def __init__(self):
    super().__init__()
    self.conv = conv(FILTERS, 1, 3, bias=True)
    self.shift = math.tanh(self.TAU)

  def forward(self, x):
    return functional.relu((torch.tanh(self.conv(x) - self.TAU) + self.shift) / (1 + self.shift))


class DynamicBlock(nn.Module):
  """A block of the dynamic head; all positions are computed, as by its authors on a CPU."""

  def __init__(self):
    super().__init__()
    # To the coarser level, and to the finer.
    self.messages = nn.ModuleList(nn.Sequential(
        nn.Conv2d(FILTERS, FILTERS, 3, padding=1, groups=FILTERS), nn.GroupNorm(32, FILTERS))
                                  for _ in range(2))
    self.gates = nn.ModuleList(Gate() for _ in range(3))
    self.weights = nn.Parameter(torch.tensor([0.1, 1.0]))
    self.depth = nn.Sequential(
        conv(FILTERS, FILTERS, 3), nn.GroupNorm(32, FILTERS), nn.ReLU(True),
        conv(FILTERS, FILTERS, 3), nn.GroupNorm(32, FILTERS))

  def forward(self, levels):
    results = []
    for number, level in enumerate(levels):
      messages = [
          functional.interpolate(self._message(0 if source < number else 1, levels[source]),
                                 size=level.shape[2:], mode='bilinear', align_corners=True)
          for source in (number - 1, number + 1) if 0 <= source < len(levels)]
      mixed = self.weights[0] * sum(messages) + self.weights[1] * level
      results.append(functional.relu(mixed + self.gates[2](mixed) * self.depth(mixed)))
    return results

  def _message(self, direction, x):
    return self.messages[direction](x) * self.gates[direction](x)


class DynamicTower(nn.Module):
  """Blocks of the dynamic head over all levels, and predictors of one kind."""

  BLOCKS = 2

  def __init__(self, outputs):
    super().__init__()
    self.blocks = nn.Sequential(*(DynamicBlock() for _ in range(self.BLOCKS)))
    self.predictors = nn.ModuleList(conv(FILTERS, count, 3, bias=True) for count in outputs)

  def forward(self, levels):
    return [[predictor(x) for predictor in self.predictors] for x in self.blocks(levels)]


class Detector(nn.Module):
  """ResNet-50, a neck from C3 to P7, and a dense head."""

  def __init__(self, branches, is_fcos, is_dynamic):
    super().__init__()
    self.stem = nn.Sequential(conv(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(True),
                              nn.MaxPool2d(3, 2, 1))
    stages, inputs = [], 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
      layers = []
      for number in range(blocks):
        layers.append(Bottleneck(inputs, width, stride if number == 0 else 1))
        inputs = 4 * width
      stages.append(nn.Sequential(*layers))
    self.stages = nn.ModuleList(stages)
    self.laterals = nn.ModuleList(Lateral(depth, branches) for depth in (512, 1024, 2048))
    self.outputs = nn.ModuleList(conv(FILTERS, FILTERS, 3, bias=True) for _ in range(3))
    self.coarse = nn.ModuleList([
        conv(FILTERS if is_fcos else 2048, FILTERS, 3, 2, bias=True),
        conv(FILTERS, FILTERS, 3, 2, bias=True)])
    self.is_fcos = is_fcos
    if is_dynamic:
      self.towers = nn.ModuleList([DynamicTower([CLASSES]), DynamicTower([4, 1])])
    else:
      self.towers = nn.ModuleList([
          Tower([CLASSES] if is_fcos else [ANCHORS * CLASSES], is_fcos),
          Tower([4, 1] if is_fcos else [ANCHORS * 4], is_fcos)])

  def forward(self, x):
    x = self.stem(x)
    features = []
    for stage in self.stages:
      x = stage(x)
      features.append(x)
    levels = [lateral(feature) for lateral, feature in zip(self.laterals, features[1:])]
    for finer in (1, 0):
      levels[finer] = levels[finer] + functional.interpolate(
          levels[finer + 1], size=levels[finer].shape[2:], mode='nearest')
    levels = [output(level) for output, level in zip(self.outputs, levels)]
    levels.append(self.coarse[0](levels[2] if self.is_fcos else features[3]))
    levels.append(self.coarse[1](functional.relu(levels[3])))
    return [tower(levels) for tower in self.towers]


def build(name: str) -> nn.Module:
  """Returns one of `NETWORKS`."""
  branches = BRANCHES if 'inception' in name else BRANCHES[:1]
  return Detector(branches, name.startswith('fcos'), 'dynamichead' in name).eval()


def answer(network, inputs) -> None:
  """Says `ready`, then runs a network for every line on standard input, and prints the seconds."""
  for _ in range(2):
    network(*inputs)
  print('ready', flush=True)
  for _ in sys.stdin:
    start = time.perf_counter()
    network(*inputs)
    print(time.perf_counter() - start, flush=True)


def main() -> None:
  """Runs the worker."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--network', required=True,
                      choices=(*NETWORKS, 'product'),
                      help='product: a matrix product of 2048, the limit of the machine')
  parser.add_argument('--image_size', type=int, required=True, help='side in pixels')
  parser.add_argument('--batch', type=int, default=1, help='images (1)')
  parser.add_argument('--threads', type=int, default=1, help='(1)')
  parser.add_argument('--mode', choices=('eager', 'compiled'), default='eager')
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  generator = torch.Generator().manual_seed(0)
  with torch.inference_mode():
    if args.network == 'product':
      matrix = torch.randn(2048, 2048, generator=generator)
      network, inputs = torch.matmul, (matrix, matrix)
    else:
      network = build(args.network)
      inputs = (torch.randn(args.batch, 3, args.image_size, args.image_size, generator=generator),)
    if args.mode == 'compiled':
      network = torch.compile(network)
    answer(network, inputs)


if __name__ == '__main__':
  main()
