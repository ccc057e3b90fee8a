"""DRFPN: the common checks, the paper's numbers, and its data flow in NumPy."""
import itertools

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import drfpn
from official_ext.ops import multiply_adds
import component
import harness
import reference
import refinement_reference

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 6, 'num_filters': 8}
LAYERS = ('compress_source|compress_target|resample|offset_hidden|offset|weight_hidden|weight'
          '|output|target|source|weights/channels|weights/context|weights/merge')
NAMES = (rf'part/((lateral|output|strided|coarser|bottom_up_output)_[3456]'
         rf'|(top_down|bottom_up)_[345]/({LAYERS})|ppm/bins_[1236]'
         rf'|non_local/(theta|phi|value|output)|dense_aspp/(reduce|dilated)_\d+)/(kernel|bias):0'
         r'|part/norm_[3456]/(gamma|beta|moving_mean|moving_variance):0')
WRONG = {'top_down': 'panet', 'bottom_up': 'fpn', 'context': 'aspp', 'srb_context': 'both',
         'crb_context': 'source', 'weight_activation': 'relu', 'padding': 'same',
         'max_level': ('min_level', 1)}
TOP_DOWN, BOTTOM_UP = ('fpn', 'srb', 'crb', 'srb_crb'), ('none', 'panet', 'crb', 'srb')
CONTEXT = ('none', 'ppm', 'non_local', 'dense_aspp')
PATHS = list(itertools.product(TOP_DOWN, BOTTOM_UP))

def _conv(kernel, depth, filters=8):
  return (kernel**2 * depth + 1) * filters


SRB = 2 * _conv(1, 8, 2) + _conv(3, 2, 2) + 2 * _conv(3, 4, 2) + _conv(3, 2, 2) + _conv(3, 2, 1) + (
    _conv(3, 8))
CRB = _conv(1, 8) + 3 * _conv(3, 8)
TOP_DOWN_WEIGHTS = {
    'fpn': 3 * _conv(3, 8), 'srb': _conv(3, 8) + 2 * SRB, 'crb': _conv(3, 8) + 2 * CRB,
    'srb_crb': _conv(3, 8) + 2 * (SRB + _conv(1, 8) + _conv(3, 8))}
BOTTOM_UP_WEIGHTS = {
    'none': 0, 'panet': 4 * _conv(3, 8), 'crb': _conv(1, 8) + 2 * CRB,
    'srb': _conv(1, 8) + 2 * SRB}
CONTEXT_WEIGHTS = {
    'none': 0, 'ppm': 4 * _conv(1, 7, 2) + 8 * 8, 'non_local': 3 * _conv(1, 7) + _conv(1, 8, 7),
    'dense_aspp': sum(_conv(1, 7 + 8 * i, 16) for i in range(5)) + 5 * _conv(3, 16) + (
        (5 * 8 - 7) * 8)}


def _part(top_down='srb', bottom_up='crb', context='ppm', **options):
  trainable = (sum(_conv(1, depth) for depth in CHANNELS.values()) + TOP_DOWN_WEIGHTS[top_down]
               + BOTTOM_UP_WEIGHTS[bottom_up] + CONTEXT_WEIGHTS[context] + _conv(3, 8) + 4 * 2 * 8)
  options = {'top_down': top_down, 'bottom_up': bottom_up, 'context': context, **options}
  return component.Component(
      drfpn.DRFPN, {**OPTIONS, **options}, CHANNELS, trainable, 4 * 2 * 8, NAMES, '3456',
      wrong=WRONG)


@pytest.mark.parametrize('check', [
    pytest.param(check, id=check.__name__,
                 marks=[pytest.mark.slow] * (check == harness.check_saving))
    for check in harness.DECODER_CHECKS])
def test_decoder(check, tmp_path):
  check(_part(), tmp_path)
