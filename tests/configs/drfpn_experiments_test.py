"""DRFPN's experiments and YAML files: complete, strict, and as the paper has them."""
import re

import numpy as np
from official.modeling import optimization
import pytest
import tensorflow as tf

from official_ext import registry_imports
from official_ext.utils import experiment
import experiment_files
from experiment_files import comment
from experiment_files import count_parameters
from experiment_files import resolve
from experiment_files import yaml_name

YAMLS = [path for path in experiment_files.ALL if comment(path).startswith('DRFPN')]
COCO = [f'{detector}_drfpn_resnet50_coco'
        for detector in ('retinanet', 'fasterrcnn', 'maskrcnn', 'cascadercnn')]
SAMPLE = [f'{detector}_drfpn_efficientnetlite0_sample' for detector in ('retinanet', 'fasterrcnn')]

LATERALS = (256 + 512 + 1024 + 2048 + 4) * 256
CONV, ONE, SRB, CRB, PPM = 590_080, 65_792, 809_219, 1_836_032, 590_080
FPN, TOP_DOWN = LATERALS + 4 * CONV, LATERALS + CONV + 3 * SRB
BOTH = TOP_DOWN + ONE + 3 * CRB
# A branch of SRB: hidden convolution of the concatenation, then 2 or 1 channels.
HIDDEN = (9 * 128 + 1) * 64
OFFSET, WEIGHT = HIDDEN + (9 * 64 + 1) * 2, HIDDEN + 9 * 64 + 1
NARROW = 2 * 9 * 64 * 64  # what both hidden convolutions lack without a concatenation
COMPRESS, RESAMPLE = 257 * 64, (9 * 64 + 1) * 64
PARAMETERS = {
    'base': FPN, '': BOTH + PPM, 'srb': TOP_DOWN, 'crb': FPN + ONE + 3 * CRB, 'ppm': FPN + PPM,
    'srb_crb': BOTH, 'srb_ppm': TOP_DOWN + PPM, 'crb_ppm': FPN + ONE + 3 * CRB + PPM,
    'panet': FPN + 6 * CONV, 'panet_ppm': FPN + 6 * CONV + PPM,
    'td_both': TOP_DOWN + 3 * (CONV + ONE), 'td_both_ppm': TOP_DOWN + 3 * (CONV + ONE) + PPM,
    'td_crb_bu_srb': BOTH, 'td_crb_bu_srb_ppm': BOTH + PPM, 'cascade': BOTH + PPM,
    'base_cascade': FPN, 'offset': BOTH + PPM - 3 * WEIGHT, 'weight': BOTH + PPM - 3 * OFFSET,
    'srb_low': BOTH + PPM - 3 * (NARROW + COMPRESS + RESAMPLE),
    'srb_high': BOTH + PPM - 3 * (NARROW + COMPRESS), 'srb_add': BOTH + PPM - 3 * NARROW,
    'crb_high': BOTH + PPM, 'crb_add': BOTH + PPM + 3 * CONV,
    'crb_cat': BOTH + PPM + 3 * (CONV + 513 * 256), 'non_local': BOTH + 2_099_968,
    'dense_aspp': BOTH + 12_259_072,
}


@pytest.mark.parametrize('name', COCO + SAMPLE)
def test_experiment_resolves_and_builds_its_decoder(name):
  model = experiment.resolve(name).task.model
  assert model.decoder.type == 'drfpn'
  assert (model.decoder.get().norm == 'none') == ('coco' in name)
  assert count_parameters(model) > 0


def check_schedule(params, epochs):
  epoch = 118287 // 24
  assert params.trainer.train_steps == epochs * epoch
  assert params.task.train_data.global_batch_size == 24
  assert params.task.losses.l2_weight_decay == 1e-4
  assert params.trainer.optimizer_config.optimizer.sgd.momentum == 0.9
  rate = optimization.OptimizerFactory(params.trainer.optimizer_config).build_learning_rate()
  first, second = {12: (8, 11), 24: (16, 22)}[epochs]
  steps = {0: 1e-5, 250: (1e-5 + 0.03) / 2, 500: 0.03, first * epoch: 0.03,
           first * epoch + 1: 0.003, second * epoch: 0.003, second * epoch + 1: 0.0003}
  measured = [float(rate(tf.constant(step))) for step in steps]
  np.testing.assert_allclose(measured, list(steps.values()), rtol=1e-5)


@pytest.mark.parametrize('name', COCO)
def test_coco_experiment_has_the_papers_schedule(name):
  check_schedule(experiment.resolve(name), 12)


def test_every_published_row_has_a_file():
  rows = ' '.join(comment(path).split('Published')[0] for path in YAMLS)
  for detector in ('RetinaNet R50 1x', 'Faster R-CNN R50 1x', 'Faster R-CNN R101 1x',
                   'Faster R-CNN R101 2x', 'Mask R-CNN R50 1x', 'Mask R-CNN R101 1x',
                   'Mask R-CNN R101 2x', 'Cascade Mask R-CNN R50 1x',
                   'Cascade Mask R-CNN R101 1x'):
    assert f'Table 1, row {detector}, base' in rows and f'Table 1, row {detector}, DRFPN' in rows
  for row in ('2, row baseline', '2, row SRB.', '2, row CRB.', '2, row PPM;', '2, row SRB+CRB;',
              '2, row SRB+PPM;', '2, row CRB+PPM;', '2, row SRB+CRB+PPM', '3, row TD;',
              '3, row TD+BU.', '3, row TD+PPM.', '3, row TD+BU+PPM', '3, row TD[SRB+CRB].',
              '3, row TD[SRB+CRB]+PPM', '3, row TD[CRB]+BU[SRB].', '3, row TD[CRB]+BU[SRB]+PPM',
              '3, row TD[SRB]+BU[CRB];', '3, row TD[SRB]+BU[CRB]+PPM', '4, row without SRB',
              '4, row offset', '4, row weight', '4, row both', '5, row F_l', '5, row F_h',
              '5, row add', '5, row cat', '6, row without CRB', '6, row F_l', '6, row F_h',
              '6, row add', '6, row cat', '7, row FPN', '7, row without PPM', '7, row PPM',
              '7, row Non-Local', '7, row DenseASPP'):
    assert f'Table {row}' in rows, row


@pytest.mark.parametrize('path', YAMLS, ids=yaml_name)
def test_yaml_says_what_it_is_and_builds_the_decoder_of_its_row(path):
  text = comment(path)
  assert re.match(r'DRFPN \(arxiv.org/abs/2012.01733\), Table \d, row ', text)
  assert 'Published, COCO' in text and 'cost: ' in text
  experiment_files.check_command(path)
  params = resolve(path)
  model = params.task.model
  variant, depth, epochs = re.fullmatch(
      r'drfpn_?(.*?)_?resnet(\d+)_(\d)x', path.stem).groups()
  assert model.backbone.resnet.model_id == int(depth)
  if path.parent.name == 'retinanet':
    expected = {'base': 984_064 - 65_792 + 3 * CONV, '': 6_864_646 + PPM}[variant]
    expected += 2 * CONV  # levels 6 and 7
  else:
    expected = PARAMETERS[variant]
  assert count_parameters(model) == expected
  check_schedule(params, 12 * int(epochs))
  if '101' in path.name:
    assert params.task.init_checkpoint is None and 'task.init_checkpoint' in text
  if 'cascade' in path.name:
    assert model.roi_sampler.cascade_iou_thresholds == [0.6, 0.7] and model.include_mask
