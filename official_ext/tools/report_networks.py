"""The part of a report that puts networks side by side."""
import argparse
from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

from official_ext.serving import prediction_files
from official_ext.serving import side_by_side
from official_ext.tools import frontier_inputs
from official_ext.tools import report_spending
from official_ext.utils import command_line
from official_ext.utils import timing
from official_ext.visualization import html_page
from official_ext.visualization import networks as network_pages
from official_ext.visualization import routing_figures

_TIMED_IMAGES = 6
_TIMED_RUNS = 5
ALL_OPEN = 'every gate open'


def add_argument(parser: argparse.ArgumentParser) -> None:
  """Adds `--network`."""
  parser.add_argument('--network', action='append', default=[], nargs='+', metavar='NAME DIR',
                      help='a network to put side by side with others: its name, the folders that '
                      'export_saved_model and predict wrote for the same images, and perhaps '
                      'those of conversions, which are timed too; give it for each network, the '
                      'plain one first')


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
  """Ends the command if `--network` was not given as it should be."""
  short = [values for values in args.network if len(values) < 3]
  if short:
    parser.error(f'--network {" ".join(short[0])}: give NAME SAVED_MODEL PREDICTIONS.')
  names = [name for name, *_ in args.network]
  if len(set(names)) < len(names):
    parser.error(f'--network: a name is given twice: {", ".join(names)}')


class Measured(NamedTuple):
  """What `measure` returns.

  Attributes:
    networks: the networks of `--network`.
    times: milliseconds of the network of the report as `timing.summaries` returns them, for its
      cheapest and its dearest image and for the dearest with every gate open; empty if it takes no
      budget, so that nothing can open its gates.
    notes: sentences on which images cost more, and on what is not shown.
  """
  networks: list[side_by_side.Network]
  times: dict[str, dict[str, float]]
  notes: list[str]


def measure(args: argparse.Namespace, shown: prediction_files.Predictions,
            seen: Mapping[str, Mapping[Any, float]]) -> Measured:
  """Measures the networks of `--network`.

  Args:
    args: `network`, `predictions`, `annotation_file` and `images`.
    shown: of the network of the report; images from its cheapest to its dearest are timed.
    seen: what is seen of the images, as `report_spending.properties` returns it.

  Raises:
    CommandError: a folder holds no detector, or one that takes no images or not the budget that
      its predictions were made at, or predictions of other images than those of the report.
  """
  images = [shown.image(cost['image_id'])
            for cost in routing_figures.pick_evenly(shown.costs, _TIMED_IMAGES)]
  candidates = {name: _candidate(args, shown, saved_model, folder, conversions)
                for name, saved_model, folder, *conversions in args.network}
  left_out = _leave_out_tables(candidates, _data_digest(args, shown))
  seconds = side_by_side.time_images(candidates, images, _TIMED_RUNS)
  shown_name = next((name for name, _, folder, *_ in args.network
                     if pathlib.Path(folder).resolve() == args.predictions.resolve()), '')
  last = len(images) - 1
  keys = {label: (shown_name, side_by_side.TENSORFLOW, budget, number)
          for label, budget, number in (('cheapest image', shown.budget, 0),
                                        ('dearest image', shown.budget, last),
                                        (ALL_OPEN, 1.0, last))}
  times = {label: seconds[key] for label, key in keys.items() if key in seconds}
  networks = side_by_side.describe(candidates, seconds)
  spending = [report_spending.sentence(
      network_pages.title(network),
      report_spending.relations(candidates[network.name].predicted.costs, seen))
              for network in networks]
  return Measured(networks, timing.summaries(times) if ALL_OPEN in times else {},
                  [*filter(None, spending), *left_out])


def _data_digest(args: argparse.Namespace, shown: prediction_files.Predictions) -> str:
  """Returns what tells the data of the report from others; empty if that is not known."""
  images = {cost['image_id']: pathlib.Path(cost['file']) for cost in shown.costs}
  if args.annotation_file is None or not all(path.is_file() for path in images.values()):
    return ''
  return frontier_inputs.data_digest(images, args.annotation_file)


def _leave_out_tables(candidates: Mapping[str, side_by_side.Candidate], digest: str) -> list[str]:
  """Takes tables of budgets from exports if they were measured on other data.

  Args:
    candidates: name -> a detector and its predictions.
    digest: what tells the data of the report from others.

  Returns:
    A sentence on each table that was taken.
  """
  from official_ext.serving import budget_table
  sentences = []
  for name, candidate in candidates.items():
    detector = candidate.detectors[side_by_side.TENSORFLOW]
    without = budget_table.without(detector.description)
    if without == detector.description:
      continue
    data = detector.description['budgets'].get('data', {})
    if digest and data.get('digest') == digest:
      continue
    detector.description = without
    sentences.append(
        f'The table of budgets of {name} is left out, because it is not known to be of the images '
        f'and annotations of this report; it is of {data.get("images", "other")} images of '
        f'{data.get("name", "other data")}. official_ext.tools.frontier --calibrate measures it '
        'again.')
  return sentences


def _candidate(args: argparse.Namespace, shown: prediction_files.Predictions, saved_model: str,
               folder: str, conversions: Sequence[str]) -> side_by_side.Candidate:
  """Loads a network and its predictions."""
  from official_ext.serving import converted_detectors
  predicted = prediction_files.Predictions(pathlib.Path(folder), args.annotation_file, args.images)
  if different := _files(predicted) ^ _files(shown):
    raise command_line.CommandError(
        f'--network: {folder} was not predicted on the images of --predictions={args.predictions}; '
        f'only one of them has {min(different)[0]}: predict the same images with all networks.')
  found: dict[str, Any] = {}
  for path in (saved_model, *conversions):
    detector = converted_detectors.load_to_time(pathlib.Path(path), '--network')
    if predicted.budget is not None and not detector.set_budget(predicted.budget):
      raise command_line.CommandError(
          f'--network: {path} takes no budget, but {folder} was predicted at one: give the export '
          'that was predicted with.')
    found[detector.engine] = detector
  if side_by_side.TENSORFLOW not in found:
    raise command_line.CommandError(
        f'--network: {saved_model} is a conversion: give the export, and the conversion last.')
  return side_by_side.Candidate(found, predicted)


def _files(predicted: prediction_files.Predictions) -> set[tuple[str, str]]:
  """Returns the name and the id, as text, of each image of predictions."""
  return {(pathlib.Path(cost['file']).name, str(cost['image_id'])) for cost in predicted.costs}


def write(page: html_page.HtmlPage, networks: Sequence[side_by_side.Network],
          advice: Sequence[str]) -> None:
  """Writes which network to use, and a table and a picture for each engine."""
  network_pages.write(page, networks, side_by_side.frontier(networks), advice)
  for engine in dict.fromkeys(name for network in networks for name in network.engines):
    there = side_by_side.in_engine(networks, engine)
    network_pages.write_times(page, engine, there, side_by_side.frontier(there))
