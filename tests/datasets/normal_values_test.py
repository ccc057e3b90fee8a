"""Ids, names, flags and numbers are the same however a file writes them."""
import math

import pytest

from official_ext.datasets import normal_values


@pytest.mark.parametrize('value, expected', [
    (1, 1), (1.0, 1), ('1', 1), (' 1 ', 1), ('1.0', 1), ('-3', -3), (0, 0), ('0', 0),
    (74673216, 74673216), ('cat-3', 'cat-3'), ('007', '007'), (' x y ', 'x y'), (1.5, '1.5'),
    ('1.5', '1.5'), ('1e3', '1e3'), ('٣', '٣'), ('', None), (' ', None), (None, None),
    (True, None), (math.nan, None), (math.inf, None), ([1], None), ({}, None)])
def test_ids(value, expected):
  found = normal_values.normal_id(value)
  assert found == expected and type(found) is type(expected)


def test_ids_are_given_back_as_they_were():
  assert [normal_values.original_id(value) for value in ('1.0', 1.0, 'x', 3)] == ['1.0', 1, 'x', 3]
  assert isinstance(normal_values.original_id(1.0), int)


@pytest.mark.parametrize('value, expected', [
    ('cat', 'cat'), (' red\ncar\t', 'red car'), ('u\u0308', '\u00fc'), (7, '7'), (None, ''),
    ('\ud800x', '?x'), ('a\x07b', 'a b'), ('日本', '日本')])
def test_names(value, expected):
  assert normal_values.normal_name(value) == expected


@pytest.mark.parametrize('value, expected', [
    (1, True), (True, True), ('1', True), ('true', True), (1.0, True), (0, False), ('0', False),
    ('false', False), ('False', False), (None, False), (math.nan, False), ('', False), ([], False)])
def test_flags(value, expected):
  assert normal_values.is_set(value) is expected


def test_positive_numbers():
  assert [normal_values.positive(value) for value in (
      2, '2.5', 0, -1, None, 'x', True, math.inf, math.nan, 10**400)] == [2, 2.5] + 8 * [None]
