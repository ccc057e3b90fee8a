"""A detector as its training left it: what it decides about images, and what its twins cost."""
import pathlib
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from official_ext.visualization import routing_figures


class TrainedDetector:
  """A trained detector, with what it costs and what its plain twins would cost."""

  def __init__(self, experiment_name: str, model_dir: pathlib.Path, imports: List[str]):
    """Builds the model of a training's `params.yaml` and loads its last checkpoint.

    Args:
      experiment_name: the experiment that was trained, which is registered.
      model_dir: folder of the training.
      imports: modules that register further components.
    """
    # pylint: disable=g-import-not-at-top
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
    from official_ext.modeling import network_cost
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
    a supernet every path; of any other detector an inception FPN with the decoder's branches, and
    an FPN.
    """
    if self.config.task.model.backbone.type == 'caddet':
      return {'every path': self.cost.maximum}
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

  def scales_present(self, boxes: Sequence[np.ndarray], sizes: Sequence[Sequence[float]]
                  ) -> np.ndarray:
    """Returns which scales the objects of each image have, where the network sees them.

    Args:
      boxes: of each image `[objects, 4]`, `[y1, x1, y2, x2]` in its pixels.
      sizes: of each image height and width in pixels.

    Returns:
      `[images, scales]` of 0 and 1.
    """
    from official_ext.losses import scale_budget  # pylint: disable=g-import-not-at-top
    target = self.config.task.model.input_size[:2]
    bounds = self.config.task.budget.scale_bounds
    scales = [min(t / s for t, s in zip(target, size)) for size in sizes]
    return np.concatenate([
        scale_budget.scales_present(np.float32(of_image * scale)[None], bounds).numpy()
        for of_image, scale in zip(boxes, scales)])

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
    return routing_figures.image_figures(
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
