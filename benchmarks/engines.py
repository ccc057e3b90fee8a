r"""Converts exported detectors and times them against TensorFlow, all in turn in one process.

    .venv/bin/python benchmarks/engines.py --saved_model=DIR [--saved_model=DIR ...] \
      [--experiment=NAME ...] [--image_size=128] [--engine=openvino ...] [--threads=1] \
      [--params_override=FIELD=VALUE,...]

An experiment is exported with random weights.  Each SavedModel is converted into a temporary
folder.  Of several synthetic images it takes the one with the fewest and the one with the most
multiply-adds: the gates of a trained network are shut for the one and open for the other.  If the
export takes a threshold of gates, a further case has every gate shut.  A batch repeats an image.
Times are medians of interleaved repeats; a ratio is that of an engine to TensorFlow.
"""
import argparse
from collections.abc import Mapping
import functools
import json
import pathlib
import tempfile
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import export
import numpy as np
import tensorflow as tf

from official_ext.ops import export_expectation
from official_ext.serving import convert
from official_ext.serving import export_checks
from official_ext.serving import export_saved_model
from official_ext.serving.compiling import frozen
from official_ext.serving import saved_models
from official_ext.serving import signatures
from official_ext.serving.engines import catalog
from official_ext.utils import command_line
from official_ext.utils import timing

_CANDIDATES = 8
_WIDTH = 12


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
  parser.add_argument('--saved_model', action='append', default=[], metavar='DIR')
  parser.add_argument('--experiment', action='append', default=[], metavar='NAME')
  parser.add_argument('--image_size', type=int, default=128, help='of experiments')
  parser.add_argument('--params_override', default='', metavar='FIELD=VALUE,...',
                      help='of experiments')
  parser.add_argument('--engine', action='append', choices=catalog.NAMES, metavar='NAME',
                      help='default: all')
  parser.add_argument('--threads', type=int, default=1)
  parser.add_argument('--batch_sizes', default='1,4')
  parser.add_argument('--repeats', type=int, default=15)
  return parser.parse_args()


def extreme_images(run: Any, size: tuple[int, int]) -> dict[str, np.ndarray]:
  """Returns the cheapest and the dearest of several images, uint8 `[1, height, width, 3]`."""
  images = export_checks.example_batches(size, _CANDIDATES)[0]
  images = np.concatenate([images, np.full_like(images[:1], 127)])
  costs = np.ravel([run(image[None])['multiply_adds'] for image in images])
  chosen = {'cheap': int(np.argmin(costs)), 'dear': int(np.argmax(costs))}
  if costs.min() == costs.max():
    del chosen['dear']
  return {f'{name}, {costs[row] / 1e9:.3f} GMAC': images[row][None]
          for name, row in chosen.items()}


def _convert(engine: str, saved_model: str, folder: pathlib.Path, threads: int) -> Any:
  """Returns a converted model, or None, with a line that says why, if the engine refuses it."""
  folder.mkdir()
  try:
    report = convert.convert(engine, saved_model, folder)
  except command_line.CommandError as error:
    print(f'  {engine}: {str(error)[:200]}')
    return None
  differences = {name: f'{value:.1g}' for name, value in report['differences'].items()
                 if not name.startswith('gate_')}
  print(f'  {engine}: {report["conditionals"]} of {report["conditionals_of_saved_model"]} '
        f'conditionals; differences {differences}')
  return catalog.engine(engine).Model(folder, threads)


def time_saved_model(path: str, arguments: argparse.Namespace) -> None:
  """Converts, times and prints one SavedModel."""
  print(path)
  source = convert.load(path)
  run = source.run
  size = saved_models.read_description(path).get('input_image_size') or (256, 256)
  with tempfile.TemporaryDirectory() as folder:
    models = {name: _convert(name, path, pathlib.Path(folder, name), arguments.threads)
              for name in arguments.engine or catalog.NAMES}
  models = {name: model for name, model in models.items() if model}
  cases: dict[str, tuple[np.ndarray, dict[str, float]]] = {
      kind: (image, {}) for kind, image in extreme_images(run, size).items()}
  if 'gate_threshold' in source.signature.structured_input_signature[1]:
    cases['every gate shut'] = next(iter(cases.values()))[0], {'gate_threshold': 1.0}
  for kind, (image, scalars) in cases.items():
    for batch_size in map(int, arguments.batch_sizes.split(',')):
      batch = np.repeat(image, batch_size, 0)
      seconds = timing.interleaved(
          {name: functools.partial(model, batch, scalars)
           for name, model in {'tensorflow': run, **models}.items()}, arguments.repeats)
      _print(kind, batch_size, seconds)


def _print(kind: str, batch_size: int, seconds: Mapping[str, np.ndarray]) -> None:
  cells = [f'{np.median(seconds["tensorflow"]) * 1e3:.1f} ms']
  cells += [f'{name} {timing.median_ratio(seconds, name, "tensorflow"):.2f}'
            for name in seconds if name != 'tensorflow']
  print(f'  {kind:24}batch {batch_size}: ' + ''.join(cell.ljust(_WIDTH + 4) for cell in cells))


def export_random(name: str, size: int, params_override: str, folder: pathlib.Path) -> None:
  """Exports an experiment with random weights, for images of one side."""
  module = export.make_module(name, size, params_override)
  with export_expectation.expected():
    network = signatures.network_function(module, 'image_tensor')
  export_saved_model.save(module, folder, 'image_tensor', module.image_size, network=network,
                          freeze=lambda: frozen.freeze(network)[0])
  (folder / 'export.json').write_text(json.dumps(module.description), encoding='utf-8')


def main() -> None:
  """Times all SavedModels and experiments."""
  arguments = _parse_arguments()
  tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
  tf.config.threading.set_inter_op_parallelism_threads(1)
  for path in arguments.saved_model:
    time_saved_model(path, arguments)
  for name in arguments.experiment:
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, name)
      path.mkdir()
      export_random(name, arguments.image_size, arguments.params_override, path)
      time_saved_model(str(path), arguments)


if __name__ == '__main__':
  main()
