"""Writes report.html and report.json about a trained, exported detector and its predictions."""
import argparse
import collections
import json
import pathlib
from typing import Any, Dict, List, Tuple

import numpy as np
from PIL import Image

from official_ext.utils import command_line
from official_ext.utils import files
from official_ext.utils import report
from official_ext.utils import routing_pictures
from official_ext.utils import visualization

_GIGA = 1e9
_EXAMPLES = 6
_ROUTED_EXAMPLES = 3  # their pictures are large
_NAMED_GATES = 8  # more are not listed below an image


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='python -m official_ext.tools.report', description=__doc__, allow_abbrev=False,
      epilog='example: python -m official_ext.tools.report --experiment '
      'retinanet_dyfpn_efficientnetlite0_sample --model_dir runs/quickstart/model --images '
      'runs/sample/coco/images --annotation_file runs/sample/records/annotations/val.json '
      '--predictions runs/quickstart/predictions --saved_model runs/quickstart/saved_model '
      '--output_dir runs/quickstart')
  parser.add_argument('--experiment', required=True, help='the experiment that was trained')
  parser.add_argument('--model_dir', required=True, type=pathlib.Path,
                      help='folder of the training: params.yaml and checkpoints')
  parser.add_argument('--annotation_file', required=True, type=pathlib.Path,
                      help='COCO JSON of the images that were predicted')
  parser.add_argument('--images', required=True, type=pathlib.Path, help='folder of these images')
  parser.add_argument('--predictions', required=True, type=pathlib.Path,
                      help='folder that tools.predict wrote')
  parser.add_argument('--saved_model', required=True, type=pathlib.Path,
                      help='folder that serving.export_saved_model wrote')
  parser.add_argument('--output_dir', required=True, type=pathlib.Path,
                      help='where report.html and report.json go')
  parser.add_argument('--seconds_by_step', type=pathlib.Path,
                      help='JSON of the seconds that each step took, to be included')
  parser.add_argument('--import', action='append', default=[], dest='imports', metavar='MODULE',
                      help='Python module that registers components')
  return parser.parse_args()


def read_json(path: pathlib.Path) -> Any:
  """Reads a JSON file of an earlier step, or says that it is missing."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(
        f'{path} cannot be read ({error}): predict with --evaluate, and give the folders that the '
        'commands wrote.') from error


class TrainedDetector:
  """A trained detector, with what it costs and what its plain twins would cost."""

  def __init__(self, experiment_name: str, model_dir: pathlib.Path, imports: List[str]):
    """Builds the model of a training's `params.yaml` and loads its last checkpoint."""
    # pylint: disable=g-import-not-at-top
    from official_ext import registry_imports  # pylint: disable=unused-import
    from official_ext.utils import experiment
    from official_ext.utils import checkpoints
    experiment.import_modules(imports)
    params = str(model_dir / 'params.yaml')
    self._resolve = lambda: experiment.resolve(experiment_name, [params], lock=False)
    self.config = self._resolve()
    self.model, self.cost = self._build(self.config)
    checkpoints.restore(self.model, model_dir, flag='--model_dir')

  def _build(self, config: Any) -> Any:
    # pylint: disable=g-import-not-at-top
    from official.core import task_factory
    from official_ext.utils import network_cost
    model = task_factory.get_task(config.task).build_model()
    return model, network_cost.whole_network_cost(model, config.task.model.input_size[:2])

  @property
  def decoder_options(self) -> Dict[str, Any]:
    """The options of the decoder in use."""
    decoder = self.config.task.model.decoder
    return decoder.as_dict()[decoder.type]

  def twin_costs(self) -> Dict[str, int]:
    """Returns the multiply-adds of the same detector with other parts that always run.

    Of a dynamic head the twins have one without gates, and a plain one of four convolutions; of
    any other detector an inception FPN with the decoder's branches, and an FPN.
    """
    tower = (self.config.task.model.as_dict().get('head') or {}).get('tower') or {}
    if tower.get('type') == 'dynamic':
      fixed = {step: 'fixed' for step in ('scale_step', 'depth_step')
               if tower['dynamic'][step] == 'gated'}
      twins = {'fixed head': {'dynamic': {**fixed, 'activation': 'tanh'}},
               'plain head': {'type': 'plain'}}
      return {name: self._twin_cost({'head': {'tower': tower}}) for name, tower in twins.items()}
    shared = {key: self.decoder_options[key]
              for key in ('num_filters', 'norm', 'coarse_levels') if key in self.decoder_options}
    twins = {'inception FPN': self.decoder_options.get('branches', ['1x1']), 'FPN': ['1x1']}
    return {name: self._twin_cost({'decoder': {
        'type': 'inception_fpn', 'inception_fpn': {**shared, 'branches': branches}}})
            for name, branches in twins.items()}

  def _twin_cost(self, override: Dict[str, Any]) -> int:
    config = self._resolve()
    config.task.model.override(override)
    return self._build(config)[1].maximum

  def _inputs(self, image: np.ndarray) -> Tuple[Any, Any]:
    """Returns what the network gets of an image, and Model Garden's image info."""
    import tensorflow as tf  # pylint: disable=g-import-not-at-top
    from official.vision.ops import preprocess_ops  # pylint: disable=g-import-not-at-top
    size = self.config.task.model.input_size[:2]
    pixels = preprocess_ops.normalize_image(
        tf.cast(image, tf.float32), preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB)
    pixels, info = preprocess_ops.resize_and_crop_image(pixels, size, size)
    return pixels[None], info

  def routing_pictures(self, image: np.ndarray) -> Dict[str, Any]:
    """Returns name -> figure of what was decided about one image.

    Args:
      image: uint8 `[height, width, 3]`.
    """
    from official_ext.ops import routing  # pylint: disable=g-import-not-at-top
    pixels, info = self._inputs(image)
    with routing.RoutingTape() as tape:
      self.model(pixels, image_shape=info[None, 1], training=False)
    record = tape.routing()
    return routing_pictures.of_image(
        image, {name: gate[0].numpy() for name, gate in record.gates.items()},
        float(record.executed[0]), float(record.maximum), info[2].numpy()) if record else {}

  def branch_features(self, image: np.ndarray) -> Dict[str, Dict[str, np.ndarray]]:
    """Returns level -> branch -> `[height, width, filters]` for one image.

    Args:
      image: uint8 `[height, width, 3]`.
    """
    features = self.model.backbone(self._inputs(image)[0], training=False)
    branches = self.decoder_options['branches']
    return {
        level: dict(zip(branches, (
            output[0].numpy() for output in lateral.branch_outputs(features[level]))))
        for level, lateral in self.model.decoder.laterals.items()
    }


class Predictions:
  """What `tools.predict` wrote, beside the annotations of the same images."""

  def __init__(self, folder: pathlib.Path, annotation_file: pathlib.Path, images: pathlib.Path):
    self._images = images
    truth = read_json(annotation_file)
    self.names = {category['id']: category['name'] for category in truth['categories']}
    self.files = {image['id']: image['file_name'] for image in truth['images']}
    self._truth = _by_image(truth['annotations'])
    self._detections = _by_image(read_json(folder / 'predictions.json'))
    self.evaluation = read_json(folder / 'evaluation.json')
    self.costs = sorted(read_json(folder / 'costs.json')['images'],
                        key=lambda cost: cost['multiply_adds'])

  def gates(self) -> Dict[str, np.ndarray]:
    """Returns gate -> `[images]`; empty where nothing is routed."""
    gates = {}
    for name in self.costs[0].get('gates', {}):
      values = np.array([cost['gates'][name] for cost in self.costs])
      # A choice between paths becomes one row per path.
      gates.update({name: values} if values.ndim == 1 else {
          f'{name} path {path}': values[:, path] for path in range(values.shape[1])})
    return gates

  def image(self, image_id: int) -> np.ndarray:
    """Reads one of the images."""
    name = self.files[image_id]
    path = next((path for path in (self._images / name, self._images / pathlib.Path(name).name)
                 if path.is_file()), None) or next(self._images.rglob(pathlib.Path(name).name))
    return np.asarray(Image.open(path).convert('RGB'))

  def pair(self, image_id: int, threshold: float = 0.4) -> List[np.ndarray]:
    """Returns the image with its ground truth and with its detections, large enough to read."""
    image, factor = visualization.enlarge(self.image(image_id), 320)
    truth = self._truth.get(image_id, [])
    found = [d for d in self._detections.get(image_id, []) if d['score'] >= threshold]

    def draw(objects, **options):
      boxes = np.array([[y, x, y + h, x + w] for x, y, w, h in (o['bbox'] for o in objects)])
      return visualization.draw_boxes(
          image, boxes * factor, [self.names[o['category_id']] for o in objects], **options)

    return [draw(truth), draw(found, scores=[d['score'] for d in found])]


def _write_results(page: report.Report, results: Dict[str, Any], twins: Dict[str, int]) -> None:
  page.heading('Results')
  page.text(f'AP {results["ap"]:.3f}, AP50 {results["ap50"]:.3f}: pycocotools, from the exported '
            'SavedModel. Cost is that of the whole network, in 10^9 multiply-adds (GMAC) per '
            'image.')
  rows = [('this detector, mean', results['gmac_mean']), ('cheapest image', results['gmac_min']),
          ('dearest image', results['gmac_max']),
          *((f'with {name}, always on', value / _GIGA) for name, value in twins.items())]
  reference = max(twins, key=twins.get)
  page.table(['network', 'GMAC per image', f'of {reference}'], [
      (name, f'{value:.3f}', f'{value * _GIGA / twins[reference]:.0%}') for name, value in rows])
  page.text('The reloaded SavedModel differs from the model in memory by at most '
            f'{results["saved_model_max_abs_diff"]:.1e}.')


def _write_routing(page: report.Report, predictions: Predictions, twins: Dict[str, int]) -> None:
  costs = np.array([cost['multiply_adds'] for cost in predictions.costs])
  page.heading('What each image cost')
  page.figure(routing_pictures.cost_histogram(costs, twins), 'Distribution over the images.')
  gates = predictions.gates()
  if gates:
    page.heading('Which gates opened for which image')
    page.figure(routing_pictures.gate_matrix(gates), 'One column per image.')


def _write_examples(page: report.Report, predictions: Predictions) -> None:
  page.heading('Detections beside ground truth, from the cheapest to the dearest image')
  for cost in routing_pictures.spread(predictions.costs, _EXAMPLES):
    gates = cost.get('gates', {})
    listed = gates.items() if len(gates) <= _NAMED_GATES else ()
    decided = ''.join(f'; {name} {_describe(gate)}' for name, gate in listed)
    page.image(
        visualization.grid(predictions.pair(cost['image_id']), ['ground truth', 'detections'], 2),
        f'{cost["file"]}: {cost["multiply_adds"] / _GIGA:.3f} GMAC{decided}')


def _describe(gate: Any) -> str:
  """Says what a gate decided: open or shut, or which path."""
  if isinstance(gate, list):
    return f'path {int(np.argmax(gate))}'
  return {0: 'shut', 1: 'open'}.get(gate, f'{gate:.0%} open')


def _write_decisions(page: report.Report, detector: TrainedDetector,
                     predictions: Predictions) -> None:
  """Writes what was decided about the cheapest, the middle and the dearest image."""
  for number, cost in enumerate(routing_pictures.spread(predictions.costs, _ROUTED_EXAMPLES)):
    pictures = detector.routing_pictures(predictions.image(cost['image_id']))
    if pictures and not number:
      page.heading('What was decided where, from the cheapest to the dearest image')
    for name, plot in pictures.items():
      page.figure(plot, f'{cost["file"]}, {name}: gray is shut.')


def _write_branches(page: report.Report, detector: TrainedDetector,
                    predictions: Predictions) -> None:
  if not hasattr(detector.model.decoder, 'laterals'):
    return
  page.heading('What each branch sees')
  page.text('Mean magnitude over channels of every branch, for the dearest image: where a gate is '
            'shut, none of this is computed.')
  image = predictions.image(predictions.costs[-1]['image_id'])
  for level, branches in detector.branch_features(image).items():
    page.figure(routing_pictures.feature_grid(image, branches, f'level {level}'),
                f'Branches of level {level}.')


def main() -> None:
  """Writes both files."""
  args = _arguments()
  predictions = Predictions(args.predictions, args.annotation_file, args.images)
  detector = TrainedDetector(args.experiment, args.model_dir, args.imports)
  costs = [cost['multiply_adds'] / _GIGA for cost in predictions.costs]
  twins = detector.twin_costs()
  results = {
      **{key: predictions.evaluation[key] for key in ('ap', 'ap50')},
      # The mean of equal numbers may round to one beside them.
      'gmac_mean': float(np.clip(np.mean(costs), min(costs), max(costs))),
      'gmac_min': min(costs),
      'gmac_max': max(costs),
      **{f'gmac_{name.lower().replace(" ", "_")}': cost / _GIGA for name, cost in twins.items()},
      'saved_model_max_abs_diff': read_json(args.saved_model / 'export.json')['max_abs_diff'],
      'open_ratio': {name: float(np.mean(gate)) for name, gate in predictions.gates().items()},
      'seconds_by_step': read_json(args.seconds_by_step) if args.seconds_by_step else {},
  }
  page = report.Report(f'{args.experiment}: {len(costs)} images')
  _write_results(page, results, twins)
  _write_routing(page, predictions, twins)
  _write_examples(page, predictions)
  _write_decisions(page, detector, predictions)
  _write_branches(page, detector, predictions)
  if results['seconds_by_step']:
    page.heading('Time')
    page.table(['step', 'seconds'], list(results['seconds_by_step'].items()))
  page.write(args.output_dir / 'report.html')
  with files.atomic_file(args.output_dir / 'report.json') as temporary:
    temporary.write_text(json.dumps(results, indent=2), encoding='utf-8')
  command_line.say(f'AP {results["ap"]:.3f}, AP50 {results["ap50"]:.3f}; GMAC per image: mean '
                   f'{results["gmac_mean"]:.3f}, {min(costs):.3f} to {max(costs):.3f}')
  command_line.say(f'written: {args.output_dir}/report.html and report.json')


def _by_image(objects: List[Dict[str, Any]]) -> Dict[int, List[Dict[str, Any]]]:
  grouped = collections.defaultdict(list)
  for item in objects:
    grouped[item['image_id']].append(item)
  return grouped


if __name__ == '__main__':
  command_line.run(main)
