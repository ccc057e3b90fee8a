"""Mask R-CNN with DyFPN trains on the masks of the sample and on real masks."""
import sys

import numpy as np
import pytest
import tf_keras

from official_ext.tools import convert_dataset
import small_detectors

MASKS = {
    'model': {
        'max_level': 6, 'include_mask': True,
        'mask_head': {'num_convs': 1, 'num_filters': 16},
        'mask_sampler': {'num_sampled_masks': 16},
        'mask_roi_aligner': {'crop_size': 14},
    },
    'budget': {'weight': 1.0, 'target': 0.3},
}


def _step(records: str, num_classes: int):
  """Takes a training step; returns the metrics, and how far mask head and gates moved."""
  task, model = small_detectors.small_task(
      'fasterrcnn_dyfpn_efficientnetlite0_sample',
      **{**MASKS, 'model': {**MASKS['model'], 'num_classes': num_classes}})
  inputs = small_detectors.batch(task, records, size=2)
  layers = {'mask_head': model.mask_head, 'gate': model.decoder.gate}
  before = {name: [np.array(weight) for weight in layer.get_weights()]
            for name, layer in layers.items()}
  metrics = task.build_metrics(training=True)
  task.train_step(inputs, model, tf_keras.optimizers.legacy.SGD(0.1), metrics)
  moved = {name: max(np.abs(new - old).max()
                     for new, old in zip(layer.get_weights(), before[name]))
           for name, layer in layers.items()}
  return {metric.name: float(metric.result()) for metric in metrics}, moved


def _check(values, moved):
  assert values['mask_loss'] > 0 and np.isfinite(list(values.values())).all()
  assert 0 < values['routing/gmac/executed'] <= values['routing/gmac/maximum']
  assert moved['mask_head'] > 0 and moved['gate'] > 0


@pytest.mark.slow
def test_a_step_on_the_masks_of_the_sample(sample_records):
  _check(*_step(f'{sample_records}/train-*.tfrecord', 11))


@pytest.mark.slow
def test_a_step_on_the_masks_of_real_nuclei(real_data, tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'argv', [
      'convert_dataset', '--include_masks', f'--input={real_data}/nuclei',
      f'--output_dir={tmp_path}/records'])
  convert_dataset.main()
  _check(*_step(f'{tmp_path}/records/train-*.tfrecord', 2))
