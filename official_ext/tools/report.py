"""Writes report.html and report.json about a trained, exported detector and its predictions."""
import argparse
from collections.abc import Sequence
import json
import pathlib
from typing import Any

from matplotlib import figure
import numpy as np

from official_ext.serving import prediction_files
from official_ext.serving import side_by_side
from official_ext.tools import budget_pictures
from official_ext.tools import report_necks
from official_ext.tools import report_networks
from official_ext.tools import report_spending
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.utils import timing
from official_ext.visualization import boxes
from official_ext.visualization import html_page
from official_ext.visualization import routes
from official_ext.visualization import routing_figures

_Predictions = prediction_files.Predictions

_GIGA = 1e9
_EXAMPLES = 6
_ROUTED_EXAMPLES = 3  # Pictures of decisions are large.
_TIMED_RUNS = 15
_OWN_TIMES = ('cheapest image', 'dearest image', report_networks.ALL_OPEN)
_NAMED_GATES = 8  # If there are more gates, none is listed below an image.


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.report', description=__doc__, allow_abbrev=False,
      epilog='example: python -m official_ext.tools.report --experiment '
      'retinanet_dyfpn_efficientnetlite0_sample --model_dir runs/quickstart/model --images '
      'runs/quickstart/val/images --annotation_file runs/quickstart/val/annotations.json '
      '--predictions runs/quickstart/predictions --saved_model runs/quickstart/saved_model '
      '--output_dir runs/quickstart')
  parser.add_argument('--experiment', required=True, help='the experiment that was trained')
  parser.add_argument('--model_dir', required=True, type=pathlib.Path,
                      help='folder of the training: params.yaml and checkpoints')
  parser.add_argument('--annotation_file', type=pathlib.Path,
                      help='COCO JSON that the images were predicted with, to draw the ground '
                      'truth beside the detections')
  parser.add_argument('--images', required=True, type=pathlib.Path, help='folder of these images')
  parser.add_argument('--predictions', required=True, type=pathlib.Path,
                      help='folder that tools.predict wrote')
  parser.add_argument('--saved_model', required=True, type=pathlib.Path,
                      help='folder that serving.export_saved_model wrote')
  parser.add_argument('--output_dir', required=True, type=pathlib.Path,
                      help='where report.html and report.json go')
  report_networks.add_argument(parser)
  parser.add_argument('--seconds_by_step', type=pathlib.Path,
                      help='JSON of the seconds that each step took, to be included')
  experiment.add_import_argument(parser)
  args = parser.parse_args()
  report_networks.check(parser, args)
  return args


def _write_results(page: html_page.HtmlPage, results: dict[str, Any],
                   twins: dict[str, int]) -> None:
  page.heading('Results')
  precision = _precision(results)
  page.text((f'{precision}: pycocotools, from the exported SavedModel. ' if precision else '') +
            'Cost is that of the whole network, in 10^9 multiply-adds (GMAC) per '
            'image.')
  rows = [('this detector, mean', results['gmac_mean']), ('cheapest image', results['gmac_min']),
          ('dearest image', results['gmac_max']),
          *((f'with {name}, always on', value / _GIGA) for name, value in twins.items())]
  reference = max(twins, key=lambda name: twins[name])
  page.table(['network', 'GMAC per image', f'of {reference}'], [
      (name, f'{value:.3f}', f'{value * _GIGA / twins[reference]:.0%}') for name, value in rows])
  page.text('The reloaded SavedModel differs from the model in memory by at most '
            f'{results["saved_model_max_abs_diff"]:.1e}.')


def _write_times(page: html_page.HtmlPage, results: dict[str, Any],
                 costs: dict[str, int]) -> None:
  """Writes how long one image takes, beside what it costs.

  Args:
    page: the report.
    results: the content of `report.json`.
    costs: multiply-adds of the twins, and of the detector with every gate open.
  """
  gmac = {'cheapest image': results['gmac_min'], 'dearest image': results['gmac_max'],
          **{name: value / _GIGA for name, value in costs.items()}}
  page.heading('How long one image takes')
  is_export = report_networks.ALL_OPEN in results['milliseconds']
  timed = 'the export, resizing and' if is_export else 'the network,'
  page.text(f'Milliseconds of {timed} suppression included, on this machine, in TensorFlow: the '
            'median, and the quartiles, between which half of the times lie.')
  page.table(['network', 'GMAC', 'ms, median', 'quartiles'], [
      (f'this detector, {name}' if name in _OWN_TIMES else name, f'{gmac[name]:.3f}',
       f'{times["median"]:.1f}', f'{times["low"]:.1f} to {times["high"]:.1f}')
      for name, times in results['milliseconds'].items()])


def _precision(results: dict[str, Any]) -> str:
  """Returns the average precision in words; empty if nothing was evaluated."""
  if results.get('ap', 0.0) < 0:
    return 'AP unknown, because the annotation file has no object in these images'
  return f'AP {results["ap"]:.3f}, AP50 {results["ap50"]:.3f}' if 'ap' in results else ''


def _write_routing(page: html_page.HtmlPage, predictions: _Predictions,
                   twins: dict[str, int]) -> None:
  costs = np.array([cost['multiply_adds'] for cost in predictions.costs])
  page.heading('What each image cost')
  page.figure(routing_figures.draw_cost_histogram(costs, twins), 'Distribution over the images.')
  gates = predictions.gates()
  if gates:
    page.heading('Which gates opened for which image')
    page.figure(routing_figures.draw_gate_matrix(gates), 'One column per image.')


def _write_examples(page: html_page.HtmlPage, predictions: _Predictions) -> None:
  titles = ['ground truth', 'detections'] if predictions.has_truth else ['detections']
  page.heading(f'{" beside ".join(reversed(titles)).capitalize()}, from the cheapest to the '
               'dearest image')
  for cost in routing_figures.pick_evenly(predictions.costs, _EXAMPLES):
    gates = cost.get('gates', {})
    listed = gates.items() if len(gates) <= _NAMED_GATES else ()
    decided = ''.join(f'; {name} {_describe(gate)}' for name, gate in listed)
    page.image(
        boxes.draw_grid(predictions.pictures(cost['image_id']), titles, len(titles)),
        f'{cost["file"]}: {cost["multiply_adds"] / _GIGA:.3f} GMAC{decided}')


def _describe(gate: Any) -> str:
  """Returns what a gate decided: open or shut, or which path."""
  if isinstance(gate, list):
    return f'path {int(np.argmax(gate))}'
  return {0: 'shut', 1: 'open'}.get(gate, f'{gate:.0%} open')


def _write_decisions(page: html_page.HtmlPage, detector: Any, predictions: _Predictions) -> None:
  """Writes the decisions about the cheapest, the middle and the dearest image."""
  for number, cost in enumerate(routing_figures.pick_evenly(predictions.costs, _ROUTED_EXAMPLES)):
    plots = _draw_decisions(detector, predictions.image(cost['image_id']))
    if plots and not number:
      page.heading('What was decided where, from the cheapest to the dearest image')
    for name, plot in plots.items():
      page.figure(plot, f'{cost["file"]}, {name}: gray is shut.')


def _draw_decisions(detector: Any, image: np.ndarray) -> dict[str, figure.Figure]:
  record = detector.decisions([image])
  if record is None:
    return {}
  _, info = detector.module.network_inputs([image])
  return routing_figures.draw_decisions(
      image, {name: gate[0] for name, gate in record.gates.items()}, float(record.executed[0]),
      float(record.maximum), info[0, 2].numpy())


def _write_budgets(page: html_page.HtmlPage, detector: Any, predictions: _Predictions) -> None:
  """Writes what becomes of one image at several budgets, if the detector takes one."""
  cost = predictions.costs[len(predictions.costs) // 2]
  afterwards = 1.0 if predictions.budget is None else predictions.budget
  found = budget_pictures.draw(
      detector, predictions.image(cost['image_id']), afterwards=afterwards)
  if not found:
    return
  page.heading('One image at several budgets')
  page.image(
      boxes.draw_grid([at.picture for at in found],
                      [f'budget {at.budget:g}, {at.gmac:.3f} GMAC' for at in found], 3),
      f'{cost["file"]}: the share of what gates can save that runs.')
  page.table(['budget', 'GMAC', 'objects', 'switched off'], [
      (f'{at.budget:g}', f'{at.gmac:.3f}', at.objects, at.shut) for at in found])


def _write_scales(page: html_page.HtmlPage, detector: Any, predictions: _Predictions) -> None:
  """Writes how cost and routes through a supernet depend on the scales of objects."""
  gates = predictions.gates()
  if not routes.supernet_paths(gates) or not predictions.has_truth:
    return
  image_ids = [cost['image_id'] for cost in predictions.costs]
  presence = np.concatenate([
      _scales_present(detector, predictions.objects(image_id), predictions.size(image_id))
      for image_id in image_ids])
  costs = np.array([cost['multiply_adds'] for cost in predictions.costs])
  captions = {
      'cost_by_scales': 'Cost by the number of scales that the objects of an image have.',
      'similarity_by_scales':
          'Similarity of the routes of two images by that of the scales of their objects.'}
  page.heading('Routes and the scales of objects')
  for name, plot in routes.draw_scale_relations(gates, costs, presence).items():
    page.figure(plot, captions[name])


def _scales_present(detector: Any, objects: np.ndarray, size: Sequence[float]) -> np.ndarray:
  """Returns which scales the objects of an image have in the network's input.

  Args:
    detector: an `InMemoryDetector`.
    objects: `[objects, 4]`, `[y1, x1, y2, x2]` in pixels of the image.
    size: height and width of the image in pixels.

  Returns:
    float32 `[1, scales]` of 0 and 1.
  """
  from official_ext.losses import scale_budget
  from official_ext.losses import task_budgets
  module = detector.module
  scale = min(target / side for target, side in zip(module.module_of(size).image_size, size))
  return scale_budget.scales_present(
      np.asarray(objects * scale, np.float32)[None],
      task_budgets.scale_bounds(module.params.task)).numpy()


def _write_sections(page: html_page.HtmlPage, results: dict[str, Any], detector: Any,
                    predictions: _Predictions, twins: dict[str, int]) -> None:
  """Writes everything about the detector of the report, in the order in which it is read."""
  _write_results(page, results, twins)
  _write_times(page, results, {**twins, report_networks.ALL_OPEN: detector.module.cost.maximum})
  _write_routing(page, predictions, twins)
  _write_examples(page, predictions)
  _write_decisions(page, detector, predictions)
  _write_budgets(page, detector, predictions)
  _write_scales(page, detector, predictions)
  report_necks.write_branches(page, detector, predictions)
  report_necks.write_pyramid(page, detector, predictions)
  if results['seconds_by_step']:
    page.heading('Time')
    page.table(['step', 'seconds'], list(results['seconds_by_step'].items()))


def _export_difference(folder: pathlib.Path) -> float:
  """Returns how much the export differs from the model that it was made of."""
  from official_ext.serving import saved_models
  description = saved_models.read_description(folder)
  if 'max_abs_diff' not in description:
    raise command_line.CommandError(
        f'--saved_model={folder} has no export.json that says how the export differs from the '
        'model: give the folder that export_saved_model wrote.')
  return description['max_abs_diff']


def _read_seconds(path: pathlib.Path) -> dict[str, float]:
  """Returns the content of `--seconds_by_step`."""
  found = prediction_files.read_json(path)
  if not isinstance(found, dict):
    raise command_line.CommandError(
        f'--seconds_by_step={path} must hold a JSON object, the name of each step and its seconds.')
  return found


def _results(predictions: _Predictions, twins: dict[str, int], **measured: Any) -> dict[str, Any]:
  """Returns the content of `report.json` but for networks side by side.

  Args:
    predictions: of the detector.
    twins: multiply-adds of its twins.
    **measured: the fields that were measured or read.
  """
  costs = [cost['multiply_adds'] / _GIGA for cost in predictions.costs]
  return {
      **{key: predictions.evaluation[key] for key in ('ap', 'ap50')
         if key in predictions.evaluation},
      # Rounding may move the mean of equal costs beyond them.
      'gmac_mean': float(np.clip(np.mean(costs), min(costs), max(costs))),
      'gmac_min': min(costs),
      'gmac_max': max(costs),
      **{f'gmac_{name.lower().replace(" ", "_")}': cost / _GIGA for name, cost in twins.items()},
      'open_ratio': {name: float(np.mean(gate)) for name, gate in predictions.gates().items()},
      **measured,
  }


def main() -> None:
  """Writes report.html and report.json."""
  args = _arguments()
  from official_ext import registry_imports
  from official_ext.serving import detectors
  from official_ext.serving import saved_models
  from official_ext.serving import twins as twins_lib
  files.check_place(args.output_dir, f'--output_dir={args.output_dir}')
  predictions = _Predictions(args.predictions, args.annotation_file, args.images)
  experiment.import_modules(args.imports)
  largest_difference = _export_difference(args.saved_model)
  seconds_by_step = _read_seconds(args.seconds_by_step) if args.seconds_by_step else {}
  detector = detectors.restore(args.experiment, args.model_dir)
  if predictions.budget is not None:
    detector.set_budget(predictions.budget)
  made = twins_lib.make_twins(detector.module)
  twins = {name: twin.multiply_adds for name, twin in made.items()}
  cheapest, dearest = (
      predictions.image(predictions.costs[index]['image_id']) for index in (0, -1))
  seen = report_spending.properties(predictions)
  follows = report_spending.relations(predictions.costs, seen)
  measured = report_networks.measure(args, predictions, seen) if args.network else None
  # An export that can open every gate needs no twins to be timed beside, which have to be traced.
  times = (measured and measured.times) or timing.summaries(
      twins_lib.seconds(detector, made, cheapest, dearest, _TIMED_RUNS))
  results = _results(
      predictions, twins, milliseconds=times, saved_model_max_abs_diff=largest_difference,
      seconds_by_step=seconds_by_step,
      cost_follows={name: relation._asdict() for name, relation in follows.items()})
  page = html_page.HtmlPage(f'{args.experiment}: {len(predictions.costs)} images')
  advice: list[str] = []
  if measured:
    results['networks'] = side_by_side.entries(measured.networks)
    advice = [*side_by_side.advice(measured.networks), *measured.notes]
    report_networks.write(page, measured.networks, advice)
  elif follows:
    advice = [report_spending.sentence('this detector', follows)]
    page.text(advice[0])
  with saved_models.unoptimized():
    _write_sections(page, results, detector, predictions, twins)
  with files.atomic_file(args.output_dir / 'report.html') as temporary:
    temporary.write_text(page.html(), encoding='utf-8')
  with files.atomic_file(args.output_dir / 'report.json') as temporary:
    temporary.write_text(json.dumps(results, indent=2), encoding='utf-8')
  precision = _precision(results)
  command_line.say((f'{precision}; ' if precision else '') +
                   f'GMAC per image: mean {results["gmac_mean"]:.3f}, {results["gmac_min"]:.3f} to '
                   f'{results["gmac_max"]:.3f}')
  for sentence in advice:
    command_line.say(sentence)
  command_line.say(f'written: {args.output_dir}/report.html and report.json')


if __name__ == '__main__':
  command_line.run(main)
