"""Measures an export that takes a budget, at many budgets: precision, cost and time."""
import argparse
from collections.abc import Iterator, Mapping, Sequence
import functools
import itertools
import os
import pathlib
from typing import Any

from official_ext.datasets.images import image_files
from official_ext.serving.engines import catalog
from official_ext.tools import evaluation
from official_ext.tools import frontier_inputs
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
  measured.json, precision/, times/   what is measured so far: an interrupted run goes on there,
                  and the table has every budget whose precision is measured

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
                      help='in [0, 1], to six digits (0, 0.1 and so on, to 1)')
  parser.add_argument('--engine', action='append', default=[], choices=catalog.NAMES,
                      help='convert the export for this engine and time it too; may be given '
                      'several times')
  parser.add_argument('--converted', action='append', default=[], type=pathlib.Path, metavar='DIR',
                      help='time this conversion of the export too, which convert wrote without '
                      '--quantize; may be given several times')
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
  # Results and rows are named by six digits.
  args.budgets = sorted({float(f'{abs(budget):g}') for budget in args.budgets})
  args.output_dir = args.output_dir or pathlib.Path(
      f'{os.path.abspath(args.saved_model)}_frontier')
  return args


def _has_numbers(value: Any, names: Sequence[str]) -> bool:
  """Returns whether a value is a mapping that has a number for every name."""
  return isinstance(value, dict) and all(
      isinstance(value.get(name), (int, float)) for name in names)


def _is_precision(value: Any) -> bool:
  """Returns whether a value may be what `evaluation.evaluate` returns."""
  return (_has_numbers(value, ('ap', 'ap50', 'gmac_mean', 'gmac_min', 'gmac_max')) and
          value['ap'] >= 0)


def _is_timing(value: Any) -> bool:
  """Returns whether a value may be what `_measure_times` keeps."""
  times = value.get('milliseconds') if isinstance(value, dict) else None
  settings = value.get('settings') if isinstance(value, dict) else None
  return (isinstance(settings, dict) and isinstance(times, dict) and
          list(times) == settings.get('budgets') and
          all(_has_numbers(time, ('low', 'median', 'high')) for time in times.values()))


def _with_known(budgets: Sequence[float], kept: kept_results.KeptResults) -> list[float]:
  """Returns budgets together with those whose precision is kept, sorted.

  Raises:
    CommandError: the file of a kept precision is damaged.
  """
  known = set(budgets)
  for name in kept.names('precision'):
    try:
      budget = argument_types.threshold(pathlib.PurePath(name).stem)
    except argparse.ArgumentTypeError:
      continue  # not of this command
    kept.get(name, _is_precision)
    known.add(budget)
  return sorted(known)


def _measure_precision(detector: Any, data: frontier_inputs.Data, budgets: Sequence[float],
                       kept: kept_results.KeptResults) -> list[dict[str, Any]]:
  """Returns a point for each budget, as `evaluation.evaluate` returns it, with the budget."""
  names = {budget: f'precision/{budget:g}.json' for budget in budgets}
  missing = [budget for budget in budgets if kept.get(names[budget]) is None]
  for budget in command_line.progress(missing, 'budgets evaluated'):
    detector.set_budget(budget)
    kept.keep(names[budget], evaluation.evaluate(
        detector, data.images, data.truth, '--data'))
  return [{'budget': budget, **kept.get(names[budget])} for budget in budgets]


def _timed_images(data: frontier_inputs.Data) -> list[Any]:
  """Returns images at equal distances, of one size, uint8 `[height, width, 3]`."""
  from official_ext.serving import image_runs
  from official_ext.visualization import routing_figures
  chosen = routing_figures.pick_evenly(list(data.images.paths), _TIMED_IMAGES)
  found = list(image_runs.pixels(data.images._replace(
      paths={image_id: data.images.paths[image_id] for image_id in chosen}),
      image_files.MAX_PIXELS, '--data').values())
  return [image for image in found if image.shape == found[0].shape]


def _measure_times(detector: Any, images: Sequence[Any], sizes: Sequence[int],
                   settings: Mapping[str, Any], kept: kept_results.KeptResults
                   ) -> dict[str, dict[str, dict[str, float]]]:
  """Times a detector, unless that is done.

  Args:
    detector: the export or a conversion.
    images: to detect in.
    sizes: numbers of images of a batch, if the detector takes any.
    settings: `budgets`, as text, and `num_runs`; `conversion`, a hash of a conversion's model.
      Kept times with others are measured again.
    kept: where the times are kept.

  Returns:
    Number of images of a batch -> budget, both as text -> `low`, `median` and `high` in
    milliseconds.
  """
  times = {}
  for size in [detector.batch_size] if detector.batch_size else sizes:
    name = f'times/{detector.engine}_{size}.json'
    found = kept.get(name, _is_timing)
    if found is None or found['settings'] != settings:
      runs = {text: functools.partial(_run, detector, float(text), _batches(images, size))
              for text in settings['budgets']}
      label = f'repeats in {detector.engine}, batch of {size}'
      found = {'settings': settings, 'milliseconds': timing.summaries(
          timing.interleaved(runs, settings['num_runs'], label=label))}
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
  detector = frontier_inputs.load_export(args.saved_model)
  with frontier_inputs.open_data(args.data) as data:
    identity = frontier_inputs.identity(args.saved_model, data)
    kept = kept_results.KeptResults(args.output_dir, identity)
    conversions = frontier_inputs.conversions(
        args.saved_model, detector.description, args.output_dir, args.engine, args.converted)
    points = _measure_precision(detector, data, _with_known(args.budgets, kept), kept)
    images = _timed_images(data)
  settings = {'budgets': [f'{point["budget"]:g}' for point in points], 'num_runs': args.num_runs}
  times = {detector.engine: _measure_times(detector, images, args.batch_sizes, settings, kept)}
  for folder, converted in conversions.items():
    times[converted.engine] = _measure_times(converted, images, args.batch_sizes, {
        **settings, 'conversion': frontier_inputs.conversion_digest(folder)}, kept)
  table = {
      **identity, 'data': {'name': data.name, 'images': len(data.images.paths),
                           'digest': identity['data']},
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
  if any(point['ap'] for point in table['points']):
    command_line.say(f'Recommended: {table["recommended"]:g}, the cheapest budget whose AP is '
                     f'within {budget_table.SMALL_LOSS:g} of the best.')
  else:
    command_line.say('No budget can be recommended: AP is 0 at all of them, so the detector has '
                     'not learned to find the objects of these images: train it longer.')
  command_line.say(f'{data["images"]} images of {data["name"]}; {machine.text(table["machine"])}; '
                   f'wrote {args.output_dir}/frontier.json and frontier.png')


if __name__ == '__main__':
  command_line.run(main)
