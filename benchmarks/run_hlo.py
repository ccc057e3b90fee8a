"""Runs and times the cases that `accelerator.py --write_hlo FOLDER` wrote; needs JAX alone.

    python benchmarks/run_hlo.py FOLDER [--repeats 9]

Prints milliseconds of the dense block, and how many times faster the others are, medians of
interleaved repeats, on the first device that JAX finds.  `error` is the largest difference between
the first results of `tiles` and of `mask`, as a share of the largest value.  The file works alone,
without this package; it was tried with JAX 0.10.
"""
import argparse
import json
import pathlib
import statistics
import time

import numpy as np

BASE = 'dense'


def load(path: pathlib.Path):
  """Compiles serialized HLO for the first device; returns a function of arrays on the device."""
  import jax
  from jaxlib import _jax
  module = _jax.mlir.hlo_to_stablehlo(path.read_bytes())
  device = jax.devices()[0]
  executable = device.client.compile_and_load(
      module, _jax.DeviceList((device,)), _jax.CompileOptions())
  return lambda arrays: executable.execute(arrays)


def inputs_of(folder: pathlib.Path, name: str):
  """Returns the arrays of a case, on the first device."""
  import jax
  dtypes = json.loads((folder / f'{name}.json').read_text(encoding='utf-8'))['dtypes']
  with np.load(folder / f'{name}.npz') as arrays:
    return [jax.device_put(arrays[key].astype(jax.numpy.dtype(dtype)), jax.devices()[0])
            for key, dtype in zip(sorted(arrays), dtypes)]


def seconds(function, arrays) -> float:
  """Returns how long a call takes until its results are there."""
  start = time.perf_counter()
  for result in function(arrays):
    result.block_until_ready()
  return time.perf_counter() - start


def measure(folder: pathlib.Path, name: str, repeats: int) -> str:
  """Returns the line of a case."""
  arrays = inputs_of(folder, name)
  functions = {path.name.split('.')[-2]: load(path)
               for path in sorted(folder.glob(f'{name}.*.hlo'))}
  first = {variant: np.asarray(function(arrays)[0], np.float32)
           for variant, function in functions.items()}
  times = {variant: [] for variant in functions}
  for _ in range(repeats):
    for variant, function in functions.items():
      times[variant].append(seconds(function, arrays))
  scale = np.abs(first['mask']).max()
  columns = []
  for variant, own in times.items():
    if variant != BASE:
      ratio = statistics.median(base / value for base, value in zip(times[BASE], own))
      error = np.abs(first[variant] - first['mask']).max() / scale
      columns.append(f'{variant} {ratio:.2f}' + (
          '' if variant == 'mask' else f' (error {error:.0e})'))
  return f'{name}: dense {1e3 * statistics.median(times[BASE]):.3f} ms  {"  ".join(columns)}'


def main() -> None:
  """Runs all cases of a folder."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('folder', type=pathlib.Path)
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  args = parser.parse_args()
  names = sorted(path.stem for path in args.folder.glob('*.json'))
  if not names:
    parser.error(f'{args.folder} holds no case that accelerator.py --write_hlo wrote')
  import jax
  device = jax.devices()[0]
  print(f'{device.platform} {device.device_kind}: milliseconds of the dense block, times faster')
  for name in names:
    print(measure(args.folder, name, args.repeats), flush=True)


if __name__ == '__main__':
  main()
