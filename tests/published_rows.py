"""The published rows of the papers: one table entry per paper, which says how its YAML files look.

An entry names the rows that must have a file, the schedule, and what a file of each row must
resolve to: parameters of the decoder (or of one tower), and fields of the experiment.
"""
import dataclasses
import re
from typing import Any

import published_backbones
import published_efficientdet
from published_schedules import (
    CADDET_EPOCH, Expected, Paper, STEPS_180K, STEPS_90K, Schedule, epochs)
import row_names


# FCOS of mmdetection 2.1, without the tricks of its authors' later code.
PLAIN_FCOS = {
    'model.center_radius': 0, 'model.head.distance_activation': 'exp',
    'model.head.centerness_tower': 'class', 'model.detection_generator.nms_iou_threshold': 0.5,
    'losses.box_loss': 'iou'}


# --- DyFPN -------------------------------------------------------------------------------------

_CHANNELS = 256 + 512 + 1024 + 2048


def inception_parameters(*kernel_sizes: int) -> int:
  """Laterals of these kernel sizes, 3x3 output convolutions, all with biases, on four levels."""
  laterals = sum(size**2 for size in kernel_sizes) * _CHANNELS * 256
  return laterals + 4 * 256 * len(kernel_sizes) + 4 * (9 * 256 * 256 + 256)


# Counts of the paper's specification; Table 3 prints 142.1 to 144.4 M for whole networks.
_INCEPTION = 103_620_608
_DYFPN_PARAMETERS = {
    'fpn': 3_344_384, 'inception_fpn': _INCEPTION,
    **dict.fromkeys(['dyfpn', 'dyfpn_b_cnn_random_test', 'dyfpn_alpha02_lambda01',
                     'dyfpn_alpha02_lambda05', 'dyfpn_alpha03_lambda01',
                     'dyfpn_alpha05_lambda01'], 106_000_200),
    **dict.fromkeys(['dyfpn_b_gru_down', 'dyfpn_b_gru_up'], 104_667_842),
    **dict.fromkeys(['dyfpn_a_gru_down', 'dyfpn_a_gru_up', 'dyfpn_a_gru_down_random_test'],
                    103_683_863),
    'dyfpn_a_cnn': 105_020_956,
    # Without a gate network: the branches, and in block B the 1x1 skip convolutions.
    'dyfpn_a_random': _INCEPTION,
    'dyfpn_b_random': _INCEPTION + _CHANNELS * 256 + 4 * 256,
    'inception_fpn_1_3': inception_parameters(1, 3),
    'inception_fpn_1_3_5': inception_parameters(1, 3, 5),
    'inception_fpn_1_3d123': inception_parameters(1, 3, 3, 3),
    'lateral_3x3': inception_parameters(3),
    'lateral_5x5': inception_parameters(5),
    'lateral_7x7': inception_parameters(7),
}


def _dyfpn(detector: str, name: str) -> Expected:
  del detector
  row = re.fullmatch(r'(.+)_resnet\d+_1x', name)[1]
  fields = {**published_backbones.fields(name), 'budget.weight': 0}
  printed = re.search(r'alpha0(\d)_lambda0(\d)', row)
  if printed:
    # Our loss is a mean over images, the paper's code sums over the two images of a GPU.
    fields.update({'budget.target': int(printed[1]) / 10, 'budget.weight': int(printed[2]) / 5,
                   'budget.reduction': 'mean'})
  if '_random' in row:
    fields['sampled_evaluation_runs'] = 10
  return Expected(epochs(12, 8, 0.01), _DYFPN_PARAMETERS[row], fields=fields)


# --- DRFPN -------------------------------------------------------------------------------------

_LATERALS = (256 + 512 + 1024 + 2048 + 4) * 256
_CONV, _ONE, _SRB, _CRB, _PPM = 590_080, 65_792, 809_219, 1_836_032, 590_080
_FPN, _TOP_DOWN = _LATERALS + 4 * _CONV, _LATERALS + _CONV + 3 * _SRB
_BOTH = _TOP_DOWN + _ONE + 3 * _CRB
# A branch of SRB: hidden convolution of the concatenation, then 2 or 1 channels.
_HIDDEN = (9 * 128 + 1) * 64
_OFFSET, _WEIGHT = _HIDDEN + (9 * 64 + 1) * 2, _HIDDEN + 9 * 64 + 1
_NARROW = 2 * 9 * 64 * 64  # what both hidden convolutions lack without a concatenation
_COMPRESS, _RESAMPLE = 257 * 64, (9 * 64 + 1) * 64
_DRFPN_PARAMETERS = {
    'base': _FPN, '': _BOTH + _PPM, 'srb': _TOP_DOWN, 'crb': _FPN + _ONE + 3 * _CRB,
    'ppm': _FPN + _PPM, 'srb_crb': _BOTH, 'srb_ppm': _TOP_DOWN + _PPM,
    'crb_ppm': _FPN + _ONE + 3 * _CRB + _PPM, 'panet': _FPN + 6 * _CONV,
    'panet_ppm': _FPN + 6 * _CONV + _PPM, 'td_both': _TOP_DOWN + 3 * (_CONV + _ONE),
    'td_both_ppm': _TOP_DOWN + 3 * (_CONV + _ONE) + _PPM, 'td_crb_bu_srb': _BOTH,
    'td_crb_bu_srb_ppm': _BOTH + _PPM, 'cascade': _BOTH + _PPM, 'base_cascade': _FPN,
    'offset': _BOTH + _PPM - 3 * _WEIGHT, 'weight': _BOTH + _PPM - 3 * _OFFSET,
    'srb_low': _BOTH + _PPM - 3 * (_NARROW + _COMPRESS + _RESAMPLE),
    'srb_high': _BOTH + _PPM - 3 * (_NARROW + _COMPRESS), 'srb_add': _BOTH + _PPM - 3 * _NARROW,
    'crb_high': _BOTH + _PPM, 'crb_add': _BOTH + _PPM + 3 * _CONV,
    'crb_cat': _BOTH + _PPM + 3 * (_CONV + 513 * 256), 'non_local': _BOTH + 2_099_968,
    'dense_aspp': _BOTH + 12_259_072, 'pafpn': _FPN + 6 * _CONV, 'carafe': _FPN + 3 * 74_148,
    'deformable_fpn': _FPN + 4 * (9 * 256 + 1) * 18,
}
# One-stage detectors: levels 3 to 7, of which two are coarser than the backbone's.  RetinaNet's
# level 6 is made from C5.
_DRFPN_ONE_STAGE = {'base': 984_064 - 65_792 + 3 * _CONV, '': 6_864_646 + _PPM}
_COARSER = {'fcos': 2 * _CONV, 'retinanet': (9 * 2048 + 1) * 256 + _CONV}


def _drfpn(detector: str, name: str) -> Expected:
  row, number = re.fullmatch(
      rf'drfpn_?(.*?)_?{published_backbones.PATTERN}_(\d)x', name).groups()
  parameters = (_DRFPN_ONE_STAGE[row] + _COARSER[detector] if detector in _COARSER else
                _DRFPN_PARAMETERS[row])
  fields = {**published_backbones.fields(name), **(PLAIN_FCOS if detector == 'fcos' else {})}
  if 'cascade' in row:
    fields.update({'model.roi_sampler.cascade_iou_thresholds': [0.6, 0.7],
                   'model.include_mask': True})
  return Expected(epochs(12 * int(number), 24, 0.03), parameters, fields=fields)


# --- i-FPN -------------------------------------------------------------------------------------

# 1x1 convolutions of C3 to C5 and two coarser 3x3 ones, or of C2 to C5 and a pooled level.
IFPN_BASIS = {**dict.fromkeys(['retinanet', 'fcos', 'atss', 'autoassign'],
                              256 * (512 + 1024 + 2048 + 3) + 2 * 256 * (9 * 256 + 1)),
              'fasterrcnn': 256 * (256 + 512 + 1024 + 2048 + 4)}
IFPN_MAPS = {
    '': 7_677_440, 'unroll0': 0, 'rbl': 5_903_872 + 10 * 256, 'csc': 3 * 590_336 + 512,
    'bifpn': 6_450_195 + 26 * 256, 'nasfpn': 10_037_504 + 17 * 256,
    **dict.fromkeys(['dense', 'unroll1', 'unroll2', 'unroll4'], 18_692_352 + 45 * 256),
    # Five blocks; 10 1x1 and 20 3x3 between levels, 5 1x1 behind them; norms: 15, 30 and 5.
    'mdeq': 30 * 589_824 + 15 * 65_536 + 45 * 256 + 50 * 512,
}


def _ifpn(detector: str, name: str) -> Expected:
  row, thousands = re.fullmatch(
      rf'ifpn_?(\w*?)_?{published_backbones.PATTERN}_(90|180)k', name).groups()
  fields = published_backbones.fields(name)
  schedule = {'90': STEPS_90K, '180': STEPS_180K}[thousands]
  if row == 'baseline':
    if detector == 'autoassign':  # as in its authors' code
      fields['model.decoder.inception_fpn.coarse_input'] = 'backbone'
    return Expected(schedule, fields={**fields, 'model.decoder.type': 'inception_fpn'})
  if row.startswith('unroll'):
    steps = int(row[-1])
    solver = {'solver': 'unroll', 'gradient': 'unroll', 'training_evaluations': steps,
              'inference_evaluations': steps}
  else:  # T steps of Broyden are T + 1 evaluations.
    solver = {'solver': 'broyden', 'gradient': 'implicit', 'tolerance': 0,
              'training_evaluations': 16, 'inference_evaluations': 8, 'backward_evaluations': 15}
  fields.update({f'model.decoder.ifpn.solver.{key}': value for key, value in solver.items()})
  return Expected(schedule, IFPN_BASIS[detector] + IFPN_MAPS[row], fields=fields)


# --- Dynamic head ------------------------------------------------------------------------------

_BLOCK, _FIXED_BLOCK = 1_193_733, 1_186_817
_SCALE_GATES, _DEPTH_GATE = 2 * 2_305 + 1, 2_305  # the first with w_s
_TOWER_PARAMETERS = {
    **{f'fixed_d{depth}': depth * _FIXED_BLOCK for depth in (2, 4, 6, 8)}, 'd2': 2 * _BLOCK,
    'd4': 4 * _BLOCK, 'd6': 6 * _BLOCK, 'scale': 8 * (_FIXED_BLOCK + _SCALE_GATES),
    'depth': 8 * (_FIXED_BLOCK + _DEPTH_GATE)}
_LAMBDAS = {'low': 0.1, 'coarse_low': 0.1, 'd2': 0.1, 'd4': 0.1, 'd6': 0.1, 'lambda04': 0.4,
            'lambda08': 0.8, 'table4': 0.1}
_TAUS = {'tau05': 0.5, 'tau10': 1.0, 'tau20': 2.0, 'restricted_tanh': 0.0}


def _freeanchor_schedule(name: str) -> Schedule:
  schedule = STEPS_180K if name.endswith('180k') else STEPS_90K
  return dataclasses.replace(schedule, warmup=500, start=0.01 / 3)


def _freeanchor(detector: str, name: str) -> Expected:
  """The plain head, whose towers have no norm, after an FPN without norm."""
  del detector
  return Expected(_freeanchor_schedule(name), IFPN_BASIS['fcos'] + 3 * _CONV, fields={
      **published_backbones.fields(name), 'model.assigner': 'freeanchor',
      'model.head.tower.plain.norm': 'none'})


def _dynamic_head(detector: str, name: str) -> Expected:
  if detector == 'efficientdet':
    return published_efficientdet.dynamic_head()
  row = re.fullmatch(r'dynamichead_(?:(.+)_)?resnet\d+_90k', name)[1] or 'table4'
  fields = {
      **published_backbones.fields(name), 'budget.weight': _LAMBDAS.get(row, 0.0),
      'model.head.tower.dynamic.coarse': row.startswith('coarse'),
      'model.head.tower.dynamic.tau': _TAUS.get(row, 1.5),
      'model.head.tower.dynamic.activation': 'softmax' if row == 'softmax' else 'tanh'}
  schedule = _freeanchor_schedule(name) if detector == 'freeanchor' else STEPS_90K
  return Expected(schedule, tower_parameters=_TOWER_PARAMETERS.get(row, 8 * _BLOCK),
                  fields=fields)


def _dense_baseline(detector: str, name: str) -> Expected:
  return Expected(STEPS_90K, fields={
      **published_backbones.fields(name), 'model.assigner': detector, 'model.decoder.type': 'fpn',
      'model.head.tower.type': 'plain'}, same_as_experiment=True)


# --- CADDet ------------------------------------------------------------------------------------

# (kind, ratio, range of the path similarity) of the ablations' rows.
_CADDET_ABLATIONS = {
    'fixed01': ('fixed', 0.1, None), 'fixed02': ('fixed', 0.2, None),
    'loss_aware005': ('loss_aware', 0.05, None), 'loss_aware01': ('loss_aware', 0.1, None),
    'scale_aware005': ('scale_aware', 0.05, None), 'scale_aware01': ('scale_aware', 0.1, None),
    'similarity040_095': ('scale_aware', 0.05, (0.4, 0.95)),
    'similarity060_095': ('scale_aware', 0.05, (0.6, 0.95)),
    'similarity080_095': ('scale_aware', 0.05, (0.8, 0.95)),
    'similarity060_090': ('scale_aware', 0.05, (0.6, 0.9)),
    'similarity060_100': ('scale_aware', 0.05, (0.6, 1.0)),
    'ratio01': ('scale_aware', 0.1, (0.6, 0.95)),
    'fpnlite005': ('scale_aware', 0.05, (0.6, 0.95)),
    'fpnlite01': ('scale_aware', 0.1, (0.6, 0.95)),
}


def _caddet(detector: str, name: str) -> Expected:
  schedule = epochs(12, 16, 0.01)
  fields: dict[str, Any] = dict(PLAIN_FCOS) if detector == 'fcos' else {}
  row = name.removesuffix('_1x').removeprefix('caddet_')
  if 'fpnlite' not in row:
    fields['model.decoder.caddet_projection.coarse_activation'] = 'none'
  if row not in _CADDET_ABLATIONS:  # A row of Table 4 has the backbone and neck of an experiment.
    return Expected(schedule, fields=fields, same_as_experiment=True)
  kind, ratio, similarity = _CADDET_ABLATIONS[row]
  decoder, width = ('fpn_lite', 128) if row.startswith('fpnlite') else ('caddet_projection', 256)
  fields |= {
      'budget.weight': 1.0, 'budget.kind': kind, 'budget.ratio': ratio,
      'budget.start_step': CADDET_EPOCH,
      'budget.path_similarity.weight': 1.0 if similarity else 0.0,
      'model.decoder.type': decoder, f'model.decoder.{decoder}.num_filters': width}
  if similarity:
    fields.update({'budget.path_similarity.minimum': similarity[0],
                   'budget.path_similarity.maximum': similarity[1]})
  return Expected(schedule, fields=fields)


# --- Sizes and frozen stages, of all papers ----------------------------------------------------


def image_sizes(name: str) -> dict[str, Any]:
  """Returns fields of the task: the sizes of images, and what does not train.

  Args:
    name: the file's name.
  """
  if name.endswith('_300epochs'):
    return published_efficientdet.image_sizes(name)
  is_ablation = name.removesuffix('_1x').removeprefix('caddet_') in _CADDET_ABLATIONS
  return {
      'resize.rule': 'paper', 'model.input_size': [None, None, 3],
      'resize.short_side': 600 if is_ablation else 800,
      'resize.long_side': 1000 if is_ablation else 1333,
      'resize.training_short_sides': (  # the 2x recipe of i-FPN
          [640, 672, 704, 736, 768, 800] if name.endswith('180k') else None),
      'frozen_stages': ['stem', 'conv2_x'] if 'resne' in name else []}


PAPERS = {
    'DyFPN': Paper(
        r'(fasterrcnn|maskrcnn|cascadercnn)/(fpn|inception_fpn|lateral|dyfpn)_.*',
        r'DyFPN \(arxiv.org/abs/2012.00779\), (Table|Figure) \d, ', row_names.DYFPN, _dyfpn),
    'DRFPN': Paper(
        r'\w+/drfpn_.*', r'DRFPN \(arxiv.org/abs/2012.01733\), Table \d, row ', row_names.DRFPN,
        _drfpn),
    'i-FPN': Paper(
        r'\w+/ifpn_.*', r'i-FPN \(arxiv.org/abs/2012.13563\), Table \d, row ', row_names.IFPN,
        _ifpn),
    'Dynamic head': Paper(
        r'\w+/dynamichead_.*', r'Dynamic head \(arxiv.org/abs/2012.03519\), ',
        row_names.DYNAMIC_HEAD, _dynamic_head),
    'FCOS and ATSS': Paper(
        r'(fcos|atss)/fpn_.*', r'(Dynamic head \(arxiv.org/abs/2012.03519\), Table \d, row '
        r'|ATSS \(arxiv.org/abs/1912.02424\), R50)', (), _dense_baseline),
    'FreeAnchor': Paper(
        r'freeanchor/fpn_.*', r'(Dynamic head \(arxiv.org/abs/2012.03519\), Table 4, row '
        r'|FreeAnchor \(arxiv.org/abs/1909.02466\), R101)',
        ('row FreeAnchor R50', 'R101 90k', 'R101 180k'), _freeanchor),
    'Necks that DRFPN compares with': Paper(
        r'fasterrcnn/(pafpn|carafe|deformable_fpn)_.*', r'(PAFPN|CARAFE|Deformable convolution) '
        r'\(arxiv.org/abs/\d+\.\d+\), as DRFPN \(arxiv.org/abs/2012.01733\) (compares|quotes)',
        ('Table 3, row TD+BU', 'Table 1, row CARAFE', 'Table 4, row FPN w/ DCN'),
        lambda _, name: Expected(epochs(12, 8, 0.01), _DRFPN_PARAMETERS[
            name.removesuffix('_resnet50_1x')], fields=published_backbones.fields(name))),
    'CADDet': Paper(
        r'\w+/(caddet|fpnlite)_.*', r'CADDet \(arxiv.org/abs/2012.04265\), Table \d, row ',
        row_names.CADDET, _caddet),
    'EfficientDet': Paper(
        r'efficientdet/d\d_.*', r'EfficientDet \(arxiv.org/abs/1911.09070\), row D\d\.',
        published_efficientdet.ROWS, lambda _, name: published_efficientdet.plain(name)),
}
