"""Errors name the argument, and what a factory adds to them."""
import pytest

from official_ext.ops import checks


def test_check_one_of_names_the_argument_and_the_allowed_values():
  checks.check_one_of('block', 'A', ('A', 'B'))
  checks.check_one_of('bits', 16, iter([16, 32]))
  with pytest.raises(
      checks.ArgumentError, match="^block is 'C'; allowed are 'A', 'B'\\.$") as caught:
    checks.check_one_of('block', 'C', iter(['A', 'B']))
  assert caught.value.argument == 'block'
  assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize('value', [0, -1.5, float('nan')])
def test_check_positive_names_the_argument_and_the_number(value):
  checks.check_positive('temperature', 0.5)
  with pytest.raises(
      checks.ArgumentError, match=f'^temperature is {value}; it must be positive') as caught:
    checks.check_positive('temperature', value)
  assert caught.value.argument == 'temperature'


def test_naming_record_prefixes_the_argument():
  with pytest.raises(checks.ArgumentError, match="^gate.type is 'cnn'") as caught:
    with checks.naming_record('gate'):
      checks.check_one_of('type', 'cnn', ['channel'])
  assert caught.value.argument == 'gate.type'


def test_naming_field_adds_the_field_to_change():
  with pytest.raises(ValueError, match=r"^block is 'C'; .* Change decoder\.dyfpn\.block\.$"):
    with checks.naming_field('decoder.dyfpn', {'min_level': 'model.min_level'}):
      checks.check_one_of('block', 'C', ['A', 'B'])


def test_naming_field_knows_arguments_that_come_from_elsewhere():
  with pytest.raises(ValueError, match=r'^min_level is 9\. Change model\.min_level\.$') as caught:
    with checks.naming_field('decoder.dyfpn', {'min_level': 'model.min_level'}):
      raise checks.ArgumentError('min_level', 'min_level is 9.')
  assert not isinstance(caught.value, checks.ArgumentError)


def test_naming_field_and_record_work_together():
  with pytest.raises(ValueError, match=r'gate\.type is .* Change decoder\.dyfpn\.gate\.type\.$'):
    with checks.naming_field('decoder.dyfpn'), checks.naming_record('gate'):
      checks.check_one_of('type', 'cnn', ['channel'])


@pytest.mark.parametrize('context', [checks.naming_field, checks.naming_record])
def test_other_errors_and_results_pass_through(context):
  with context('decoder'):
    pass
  with pytest.raises(ValueError, match='^something else$'):
    with context('decoder'):
      raise ValueError('something else')
