"""Times deformable convolution beside torchvision's and beside the plain convolution, on a CPU.

    .venv/bin/python benchmarks/deformable.py --torch_python=PYTHON [--threads=1] [--repeats=7]

PYTHON is the interpreter of an environment in which `pip install torch torchvision` was done.  Both
programs take turns, one call each, so that they see the same load of the machine.  The maps are
those of ResNet-50 for an image of 512 pixels: C3, C4 and C5, kernels of 3x3, version 2 with masks.
Figures are medians, as ratios to torchvision, and of each program to its own plain convolution.
"""
import argparse
from collections.abc import Callable
import pathlib
import statistics
import subprocess
import sys
import time

SHAPES = {'C3': (64, 64, 128), 'C4': (32, 32, 256), 'C5': (16, 16, 512)}
CASES = [(stage, kind, mode) for stage in SHAPES for kind in ('deformable', 'plain')
         for mode in ('forward', 'training')]


def torch_call(stage: str, kind: str, mode: str) -> Callable[[], None]:
  """Returns a call of PyTorch; runs in the environment with torchvision."""
  import torch
  import torchvision
  height, width, channels = SHAPES[stage]
  trains = mode == 'training'
  features = torch.randn(1, channels, height, width, requires_grad=trains)
  kernel = torch.randn(channels, channels, 3, 3, requires_grad=trains)
  offsets = torch.randn(1, 18, height, width, requires_grad=trains)
  masks = torch.rand(1, 9, height, width, requires_grad=trains)

  def run():
    with torch.set_grad_enabled(trains):
      if kind == 'plain':
        result = torch.nn.functional.conv2d(features, kernel, padding=1)
      else:
        result = torchvision.ops.deform_conv2d(features, offsets, kernel, padding=1, mask=masks)
      if trains:
        result.sum().backward()

  return run


def tensorflow_call(stage: str, kind: str, mode: str) -> Callable[[], None]:
  """Returns the same call of this package or of TensorFlow."""
  import graphs
  import tensorflow as tf
  from official_ext.ops import deformable_conv
  height, width, channels = SHAPES[stage]
  inputs = [tf.random.normal([1, height, width, channels]),
            tf.random.normal([3, 3, channels, channels])]
  if kind == 'plain':
    def function(features, kernel):
      return tf.nn.conv2d(features, kernel, 1, 'SAME')
  else:
    function = deformable_conv.deformable_conv2d
    inputs += [tf.random.normal([1, height, width, 18]),
               tf.random.uniform([1, height, width, 9])]
  if mode == 'training':
    function = graphs.with_gradients(function)
  traced = graphs.traced(function, *inputs)
  return lambda: traced(*inputs)


def serve(threads: int) -> None:
  """Answers every line `stage kind mode` with the milliseconds of one call."""
  import torch
  torch.set_num_threads(threads)
  calls = {}
  for line in sys.stdin:
    case = tuple(line.split())
    if case not in calls:
      calls[case] = torch_call(*case)
      calls[case]()
    print(milliseconds(calls[case]), flush=True)


def milliseconds(call: Callable[[], None]) -> float:
  """Returns the time of one call."""
  start = time.perf_counter()
  call()
  return 1000 * (time.perf_counter() - start)


def main() -> None:
  """Times and prints."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--torch_python', metavar='PYTHON')
  parser.add_argument('--serve', action='store_true', help='used by the command itself')
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--repeats', type=int, default=7)
  args = parser.parse_args()
  if args.serve:
    serve(args.threads)
    return
  if not args.torch_python:
    parser.error('--torch_python is needed: an interpreter that has PyTorch and torchvision.')
  import official_ext  # noqa: F401 (chooses Keras 2)
  import tensorflow as tf
  tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  with subprocess.Popen(
      [args.torch_python, pathlib.Path(__file__).resolve(), '--serve', f'--threads={args.threads}'],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:

    def ask(case):
      peer.stdin.write(' '.join(case) + '\n')
      peer.stdin.flush()
      return float(peer.stdout.readline())

    print('| map | call | time, of torchvision | of the plain one | torchvision, of its own |')
    print('|---|---|---:|---:|---:|')
    times = {}
    for case in CASES:
      call = tensorflow_call(*case)
      call(), ask(case)
      pairs = [(milliseconds(call), ask(case)) for _ in range(args.repeats)]
      times[case] = [statistics.median(column) for column in zip(*pairs)]
    for stage, kind, mode in CASES:
      if kind == 'deformable':
        ours, theirs = times[stage, kind, mode]
        plain = times[stage, 'plain', mode]
        print(f'| {stage} | {mode} | {ours / theirs:.2f} | {ours / plain[0]:.1f} | '
              f'{theirs / plain[1]:.1f} |')
    peer.stdin.close()


if __name__ == '__main__':
  main()
