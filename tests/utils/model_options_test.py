"""Options of an earlier version are the same ones where what they lack has its default."""
from official_ext.utils import model_options
import small_detectors


def test_the_first_option_that_differs_is_named():
  model = small_detectors.small_experiment('retinanet_dyfpn_efficientnetlite0_sample').task.model
  previous = model.as_dict()
  del previous['head']['num_convs'], previous['decoder']['dyfpn']['num_filters']
  model.head.num_convs = type(model.head)().num_convs
  model.decoder.dyfpn.num_filters = type(model.decoder.dyfpn)().num_filters
  assert model_options.difference(previous, model) is None
  assert model_options.difference({**previous, 'gone': 1}, model) == 'gone'
  assert model_options.difference(None, model) == ''
  assert model_options.difference({**previous, 'head': None}, model) == 'head'
  model.decoder.dyfpn.num_filters += 1
  assert model_options.difference(previous, model) == 'decoder.dyfpn.num_filters'
  assert model_options.difference(previous, model, {'num_filters'}) is None
  previous['head']['num_filters'] += 1
  assert model_options.difference(previous, model, {'dyfpn'}) == 'head.num_filters'
