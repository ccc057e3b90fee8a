"""Writes report.html and report.json about a trained, exported detector and its predictions."""
import argparse
import json
import pathlib
from typing import Any, Dict, List, Mapping

from official_ext.utils import command_line

_EXAMPLES = 6


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
  """Reads a JSON file, or says that it is missing and who writes it."""
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except (OSError, ValueError) as error:
    raise command_line.CommandError(f'{path} cannot be read ({error}).') from error


class TrainedDetector:
  """A trained detector, with what it costs and what its plain twins would cost."""

  def __init__(self, experiment_name: str, model_dir: pathlib.Path):
    """Builds the model of a training's `params.yaml` and loads its last checkpoint."""
    # pylint: disable=g-import-not-at-top
    from official_ext import registry_imports  # pylint: disable=unused-import
    from official_ext.utils import experiment
    import tensorflow as tf
    params = str(model_dir / 'params.yaml')
    self._resolve = lambda: experiment.resolve(experiment_name, [params], lock=False)
    self.config = self._resolve()
    self.model, self.cost = self._build(self.config)
    checkpoint = tf.train.latest_checkpoint(str(model_dir))
    if checkpoint is None:
      raise command_line.CommandError(f'--model_dir={model_dir} holds no checkpoint: train first.')
    status = tf.train.Checkpoint(model=self.model).read(checkpoint)
    status.expect_partial().assert_existing_objects_matched()

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

  def twin_cost(self, branches: List[str]) -> int:
    """Returns the multiply-adds of the same detector with an inception FPN that always runs."""
    config = self._resolve()
    shared = {key: self.decoder_options[key]
              for key in ('num_filters', 'norm', 'coarse_levels') if key in self.decoder_options}
    config.task.model.decoder.override(
        {'type': 'inception_fpn', 'inception_fpn': {**shared, 'branches': branches}})
    return self._build(config)[1].maximum

  def branch_features(self, image: np.ndarray) -> Dict[str, Dict[str, np.ndarray]]:
    """Returns level -> branch -> `[height, width, filters]` for one image.

    Args:
      image: uint8 `[height, width, 3]`.
    """
    import tensorflow as tf  # pylint: disable=g-import-not-at-top
    from official.vision.ops import preprocess_ops  # pylint: disable=g-import-not-at-top
    size = self.config.task.model.input_size[:2]
    pixels = preprocess_ops.normalize_image(
        tf.cast(image, tf.float32), preprocess_ops.MEAN_RGB, preprocess_ops.STDDEV_RGB)
    pixels, _ = preprocess_ops.resize_and_crop_image(pixels, size, size)
    features = self.model.backbone(pixels[None], training=False)
    branches = self.decoder_options['branches']
    return {
        level: dict(zip(branches, (
            output[0].numpy() for output in lateral.branch_outputs(features[level]))))
        for level, lateral in self.model.decoder.laterals.items()
    }


class Predictions:
  """What `tools.predict` wrote, beside the annotations of the same images."""

  def __init__(self, folder: pathlib.Path, annotation_file: pathlib.Path, images: pathlib.Path):
    self.annotation_file = annotation_file
    self.results_file = folder / 'predictions.json'
    self._images = images
    truth = read_json(annotation_file)
    self.names = {category['id']: category['name'] for category in truth['categories']}
    self.files = {image['id']: image['file_name'] for image in truth['images']}
    self._truth = _by_image(truth['annotations'])
    self._detections = _by_image(read_json(self.results_file))
    self.costs = sorted(read_json(folder / 'costs.json')['images'],
                        key=lambda cost: cost['multiply_adds'])

  def gates(self) -> Dict[str, np.ndarray]:
    """Returns gate -> `[images]`; empty where nothing is routed."""
    names = self.costs[0].get('gates', {})
    return {name: np.array([cost['gates'][name] for cost in self.costs]) for name in names}

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


def _by_image(objects: List[Dict[str, Any]]) -> Dict[int, List[Dict[str, Any]]]:
  grouped = collections.defaultdict(list)
  for item in objects:
    grouped[item['image_id']].append(item)
  return grouped
