"""Options of the implicit pyramid that cannot be are refused, by name."""
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import ifpn

CHANNELS = {'3': 6, '4': 5}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 5, 'num_filters': 8}


@pytest.mark.parametrize('options, message', [
    ({'solver': {'steps': 5}}, r"no option \['steps'\]"),
    ({'solver': {'training_evaluations': 0}}, 'at least 1'),
    ({'solver': {'solver': 'unroll', 'training_evaluations': 2}}, 'has to run alike'),
    ({'solver': {'tolerance': -1.0}}, 'tolerance'),
    ({'solver': {'warmup_unroll_steps': -1}}, 'warmup_unroll_steps'),
    ({'solver': {'least_evaluations': 0}}, 'solver.least_evaluations is 0'),
    ({'solver': {'budget_input': True, 'least_evaluations': 4, 'inference_evaluations': 3}},
     'solver.least_evaluations is 4, and a budget of 1 runs 3'),
    ({'injection': 'mdeq', 'residual': False}, 'has its own map'),
    ({'injection': 'mdeq', 'deformable_kernels': True}, 'has its own map'),
    ({'cross_scale': 'dense', 'deformable_kernels': True}, "cross_scale is 'dense': only"),
    ({'cross_scale': 'nasfpn'}, '5 levels, not 3'),
    ({'cross_scale': 'bifpn', 'min_level': 4, 'max_level': 4}, 'at least 2 levels')])
def test_options_that_cannot_be_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    ifpn.ImplicitFPN(**{**OPTIONS, **options})


def test_too_few_channels_for_a_group_are_refused():
  with pytest.raises(ValueError, match='num_filters'):
    ifpn.ImplicitFPN(**{**OPTIONS, 'num_filters': 12})({
        level: tf.zeros([1, 32, 32, depth]) for level, depth in CHANNELS.items()})
