"""Measures an export that takes a budget, at many budgets: precision, cost and time."""
import argparse
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import hashlib
import itertools
import pathlib
import tempfile
from typing import Any, NamedTuple

from official_ext.datasets.images import image_files
from official_ext.datasets.images import image_ids
from official_ext.datasets import truth as truth_lib
from official_ext.serving.engines import catalog
from official_ext.tools import evaluation
from official_ext.tools import write_images
from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import kept_results
from official_ext.utils import machine
from official_ext.utils import timing

_DESCRIPTION = """\
Measures an exported detector that takes a budget (docs/frontier.md), at every budget: average
precision by pycocotools, the multiply-adds of the whole network for each image, and the time of
one batch on this machine, in TensorFlow and in other engines.  Writes into --output_dir:

  frontier.json   the figures
  frontier.png    average precision against multiply-adds and against time
  measured.json, precision/, times/   what is measured so far: an interrupted run goes on there

Times are of detection, resizing and suppression included: medians of repeats, in each of which all
budgets run one after the other on the same images, and quartiles, which say how much they vary.

--calibrate also writes the figures into the export, and into conversions that were timed, so that
`predict --max_ms=30` and `predict --max_gmac=0.5` choose the largest budget that fits.
"""
_EPILOG = """\
example:
  python -m official_ext.tools.frontier --saved_model=runs/dyfpn_saved_model --data=my_records \\
    --engine=openvino --calibrate
"""
_BUDGETS = [number / 10 for number in range(11)]
_TIMED_IMAGES = 16


class _Data(NamedTuple):
  """Images and what is to be found in them.

  Attributes:
    images: the images.
    truth: their annotation file.
    name: of the folder.
  """
  images: image_ids.ImageSet
  truth: truth_lib.Truth
  name: str


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.frontier', description=_DESCRIPTION, epilog=_EPILOG,
      formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
  parser.add_argument('--saved_model', required=True, type=pathlib.Path, metavar='DIR',
                      help='folder that export_saved_model wrote')
  parser.add_argument('--data', required=True, type=pathlib.Path, metavar='DIR',
                      help='folder that convert_dataset wrote, whose split val is measured, or '
                      'that write_images wrote')
  parser.add_argument('--budgets', default=_BUDGETS, metavar='A,B,...',
                      type=argument_types.list_of(argument_types.threshold),
                      help='in [0, 1] (0, 0.1 and so on, to 1)')
  parser.add_argument('--engine', action='append', default=[], choices=catalog.NAMES,
                      help='convert the export for this engine and time it too; may be given '
                      'several times')
  parser.add_argument('--converted', action='append', default=[], type=pathlib.Path, metavar='DIR',
                      help='time this conversion of the export too, which convert wrote; may be '
                      'given several times')
  parser.add_argument('--batch_sizes', default=[1, 8], metavar='A,B,...',
                      type=argument_types.list_of(argument_types.positive_int),
                      help='numbers of images of a timed batch (1,8)')
  parser.add_argument('--num_runs', type=argument_types.positive_int, default=15, metavar='N',
                      help='repeats of timing (15)')
  parser.add_argument('--output_dir', type=pathlib.Path, metavar='DIR',
                      help='folder to write, or to go on with (--saved_model with _frontier at '
                      'its end)')
  parser.add_argument('--calibrate', action='store_true',
                      help='write the figures into the export and timed conversions')
  args = parser.parse_args(arguments)
  args.budgets = sorted(set(args.budgets))
  args.output_dir = args.output_dir or args.saved_model.with_name(
      f'{args.saved_model.name}_frontier')
  return args


def _load(path: pathlib.Path) -> Any:
  """Loads the export; raises CommandError unless it takes a budget and says what images cost."""
  from official_ext.serving import converted_detectors
  detector = converted_detectors.load_to_time(path)
  if not detector.set_budget(1.0):
    raise command_line.CommandError(
        f'--saved_model={path} takes no budget: train it with budget_input (docs/frontier.md), or '
        'draw its thresholds with official_ext.tools.tradeoff.')
  if detector.engine != 'tensorflow':
    raise command_line.CommandError(
        f'--saved_model={path} is a conversion: give the export, and this folder as --converted.')
  evaluation.check_costs(detector, str(path))
  return detector


@contextlib.contextmanager
def _data(path: pathlib.Path) -> Iterator[_Data]:
  """Yields the images of `--data`; those of records are files until the end."""
  with contextlib.ExitStack() as stack:
    folder = path
    if not (path / 'annotations.json').is_file():
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      write_images.write(path, 'val', folder)
    truth = truth_lib.Truth(folder / 'annotations.json', '--data')
    yield _Data(image_ids.assign(image_files.find([folder / 'images']), truth), truth,
                path.resolve().name)


def _digest(paths: Mapping[str, pathlib.Path]) -> str:
  """Returns what tells files from others: a hash of their names and contents."""
  digest = hashlib.sha256()
  for name, path in sorted(paths.items()):
    digest.update(f'{name}\n{path.stat().st_size}\n'.encode('utf-8', 'surrogateescape'))
    with path.open('rb') as file:
      while part := file.read(1 << 20):
        digest.update(part)
  return digest.hexdigest()[:16]


def _identity(args: argparse.Namespace, data: _Data) -> dict[str, Any]:
  """Returns what the measurements are of: hashes of model and data, and the machine."""
  network = {str(path.relative_to(args.saved_model)): path
             for pattern in ('saved_model.pb', 'variables/*')
             for path in args.saved_model.glob(pattern)}
  seen = {str(image_id): path for image_id, path in data.images.paths.items()}
  return {'model': _digest(network), 'data': _digest({**seen, '': data.truth.path}),
          'machine': machine.describe()}


def _conversions(args: argparse.Namespace, description: Mapping[str, Any]
                 ) -> dict[pathlib.Path, Any]:
  """Returns folder -> detector of every conversion; converts where that is asked for.

  Raises:
    CommandError: an engine refuses the export, or a conversion is of another export.
  """
  from official_ext.serving import budget_table
  from official_ext.serving import convert
  from official_ext.serving import converted_detectors

  def of_export(description):
    return {name: value for name, value in budget_table.without(description).items()
            if name != 'batch_size'}

  found = {}
  for engine in dict.fromkeys(args.engine):
    folder = args.output_dir / engine
    if not catalog.engine_of(folder):
      command_line.say(f'Converting the export for {engine} ...')
      with files.atomic_directory(folder) as temporary:
        convert.convert(engine, args.saved_model, temporary)
    found[folder] = converted_detectors.load(folder)
  for folder in args.converted:
    found[folder] = converted_detectors.load_to_time(folder, '--converted')
    if of_export(found[folder].description) != of_export(description):
      raise command_line.CommandError(
          f'--converted={folder} is not a conversion of --saved_model={args.saved_model}.')
    if not found[folder].set_budget(1.0):
      raise command_line.CommandError(
          f'--converted={folder} takes no budget: convert the export again.')
  engines = [detector.engine for detector in found.values()]
  if len(set(engines)) < len(engines):
    raise command_line.CommandError(
        f'--engine and --converted give {max(engines, key=engines.count)} twice: give it once.')
  return found


def _measure_precision(detector: Any, data: _Data, budgets: Sequence[float],
                       kept: kept_results.KeptResults) -> list[dict[str, Any]]:
  """Returns a point for each budget, as `evaluation.evaluate` returns it, with the budget."""
  names = {budget: f'precision/{budget:g}.json' for budget in budgets}
  missing = [budget for budget in budgets if kept.get(names[budget]) is None]
  for budget in command_line.progress(missing, 'budgets evaluated'):
    detector.set_budget(budget)
    kept.keep(names[budget], evaluation.evaluate(
        detector, data.images, data.truth, '--data'))
  return [{'budget': budget, **kept.get(names[budget])} for budget in budgets]


def _timed_images(data: _Data) -> list[Any]:
  """Returns images at equal distances, of one size, uint8 `[height, width, 3]`."""
  from official_ext.serving import image_runs
  from official_ext.visualization import routing_figures
  chosen = routing_figures.pick_evenly(list(data.images.paths), _TIMED_IMAGES)
  found = list(image_runs.pixels(data.images._replace(
      paths={image_id: data.images.paths[image_id] for image_id in chosen}),
      image_files.MAX_PIXELS, '--data').values())
  return [image for image in found if image.shape == found[0].shape]


def _measure_times(detector: Any, images: Sequence[Any], args: argparse.Namespace,
                   kept: kept_results.KeptResults) -> dict[str, dict[str, dict[str, float]]]:
  """Times a detector, unless that is done.

  Returns:
    Number of images of a batch -> budget, both as text -> `low`, `median` and `high` in
    milliseconds.
  """
  names = [f'{budget:g}' for budget in args.budgets]
  times = {}
  for size in [detector.batch_size] if detector.batch_size else args.batch_sizes:
    name = f'times/{detector.engine}_{size}.json'
    settings = {'budgets': names, 'num_runs': args.num_runs}
    found = kept.get(name)
    if found is None or found['settings'] != settings:
      runs = {text: functools.partial(_run, detector, budget, _batches(images, size))
              for text, budget in zip(names, args.budgets)}
      label = f'repeats in {detector.engine}, batch of {size}'
      found = {'settings': settings, 'milliseconds': timing.summaries(
          timing.interleaved(runs, args.num_runs, label=label))}
      kept.keep(name, found)
    times[str(size)] = found['milliseconds']
  return times


def _batches(images: Sequence[Any], size: int) -> Iterator[Any]:
  """Returns batches of the images without an end, uint8 `[size, height, width, 3]`."""
  import numpy as np
  endless = itertools.cycle(images)
  number = max(1, len(images) // size)
  return itertools.cycle([np.stack(list(itertools.islice(endless, size))) for _ in range(number)])


def _run(detector: Any, budget: float, batches: Iterator[Any]) -> None:
  """Detects in the next batch at a budget."""
  detector.set_budget(budget)
  detector(next(batches))


def _say(points: Sequence[Mapping[str, Any]]) -> None:
  """Prints the table."""
  sizes = [(engine, size) for engine, sizes in points[0]['milliseconds'].items() for size in sizes]
  command_line.say(f'{"budget":>6}{"AP":>8}{"AP50":>8}{"GMAC":>8}{"min":>8}{"max":>8}' + ''.join(
      f'{f"ms, {size} in {engine}":>26}' for engine, size in sizes))
  for point in points:
    figures = (f'{point[name]:8.3f}' for name in (
        'ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max'))
    times = ('{median:.1f} ({low:.1f} to {high:.1f})'.format(**point['milliseconds'][engine][size])
             for engine, size in sizes)
    command_line.say(f'{point["budget"]:6g}' + ''.join(figures) + ''.join(
        f'{time:>26}' for time in times))


def measure(args: argparse.Namespace) -> dict[str, Any]:
  """Measures what is not measured yet.

  Args:
    args: the command's arguments.

  Returns:
    The content of `frontier.json`, which is a table as `serving.budget_table` has it.

  Raises:
    CommandError: the export or the data cannot be measured, or the folder is of others.
  """
  from official_ext.serving import budget_table
  detector = _load(args.saved_model)
  with _data(args.data) as data:
    identity = _identity(args, data)
    kept = kept_results.KeptResults(args.output_dir, identity)
    conversions = _conversions(args, detector.description)
    points = _measure_precision(detector, data, args.budgets, kept)
    images = _timed_images(data)
    times = {timed.engine: _measure_times(timed, images, args, kept)
             for timed in (detector, *conversions.values())}
  table = {
      **identity, 'data': {'name': data.name, 'images': len(data.images.paths)},
      'num_runs': args.num_runs, 'recommended': budget_table.recommended(points),
      'points': [{**point, 'milliseconds': {
          engine: {size: found[f'{point["budget"]:g}'] for size, found in sizes.items()}
          for engine, sizes in times.items()}} for point in points]}
  kept.keep('frontier.json', table)
  if args.calibrate:
    for folder in (args.saved_model, *conversions):
      budget_table.write(folder, table)
      command_line.say(f'Wrote the table into {folder}')
  return table


def main(arguments: Sequence[str] | None = None) -> None:
  """Measures and draws; `arguments` replace those of the command line."""
  args = _parse_arguments(arguments)
  from official_ext.serving import budget_table
  from official_ext.visualization import tradeoff
  table = measure(args)
  with files.atomic_file(args.output_dir / 'frontier.png') as temporary:
    tradeoff.draw_frontier(table['points']).savefig(temporary, dpi=110, bbox_inches='tight')
  _say(table['points'])
  data = table['data']
  command_line.say(f'Recommended: {table["recommended"]:g}, the cheapest budget whose AP is within '
                   f'{budget_table.SMALL_LOSS:g} of the best.')
  command_line.say(f'{data["images"]} images of {data["name"]}; {machine.text(table["machine"])}; '
                   f'wrote {args.output_dir}/frontier.json and frontier.png')


if __name__ == '__main__':
  command_line.run(main)
