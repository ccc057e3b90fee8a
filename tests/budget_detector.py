"""A small DyFPN detector that takes a budget, and whose gates differ between images."""
import json
import pathlib

import tensorflow as tf, tf_keras

from official_ext.datasets import categories as categories_lib
from official_ext.serving import detection
from official_ext.serving import export_saved_model
from official_ext.serving.compiling import frozen
from official_ext.serving import signatures
import mixed_detector
import small_detectors

GATES = ('gate_dyfpn_3', 'gate_dyfpn_4', 'gate_dyfpn_5')
NAME = 'retinanet_dyfpn_efficientnetlite0_sample'


def module(**model_options):
  """Returns the export module, for images of 64 pixels."""
  tf_keras.utils.set_random_seed(1)
  options = {'budget': {'kind': 'drawn', 'weight': 1.0}, 'model': {
      'decoder': {'dyfpn': {'num_filters': 8, 'gate': {'budget_input': True}}}, **model_options}}
  _, model = small_detectors.small_task(NAME, **options)
  config = small_detectors.small_experiment(NAME, **options)
  made = detection.RoutedDetectionModule(config, model=model, input_image_size=[64, 64])
  decoder = model.decoder
  features = model.backbone(made.preprocess(tf.constant(mixed_detector.images(8)))[0])
  logits = decoder.gate({level: features[level] for level in decoder.backbone_levels}).numpy()
  margins = logits[..., 1:] - logits[..., :1]
  for variable in decoder.budget_variables:
    for name, value in (('mean', margins.mean(0)), ('variance', margins.var(0))):
      if f'/{name}:' in variable.name:
        variable.assign(value)
  mixed_detector.spread_scores(model)
  return made


def export(made, folder: pathlib.Path,
           categories: categories_lib.Categories = categories_lib.UNKNOWN) -> pathlib.Path:
  """Writes the module's SavedModel, with constants for weights, and returns the folder."""
  network = signatures.network_function(made, 'image_tensor')
  export_saved_model.save(made, folder, 'image_tensor', (64, 64), None, categories, network,
                          lambda: frozen.freeze(network)[0])
  (folder / 'export.json').write_text(json.dumps(made.description), encoding='utf-8')
  return folder


def export_command(made, folder: pathlib.Path) -> list[str]:
  """Saves the module's weights in a folder, and returns the arguments that export them."""
  model = made.model
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(folder / 'run' / 'ckpt')
  return [
      f'--experiment={NAME}', small_detectors.write_overrides(NAME, folder),
      '--params_override=task.budget.kind=drawn,task.model.decoder.dyfpn.num_filters=8,'
      'task.model.decoder.dyfpn.gate.budget_input=true',
      f'--checkpoint_path={folder}/run', f'--export_dir={folder}/saved']
