"""The plans of studies: the networks that are trained, and the claims that are tested."""
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Options = Mapping[str, Any]

BUDGETS = tuple(number / 10 for number in range(11))
_NECK = 'retinanet_{}_efficientnetlite0_sample'
_HEAD = 'fcos_{}_efficientnetlite0_sample'
_WIDTHS = {
    'retinanet': ('task.model.decoder.fpn.num_filters', 'task.model.head.num_filters'),
    'fcos': ('task.model.decoder.fpn.num_filters', 'task.model.head.num_filters')}
_SMALL = 0.75
# Filters of heads that are most of the work at 512 x 640 pixels.
_WIDE = 128
# Blocks of a carried ImageNet backbone that few images cannot improve.
_FROZEN = {'task.frozen_stages': ['stem', 'conv2_x']}
# What the sizes of images must be multiples of, by the strides of the pyramid.
_STRIDE = 64
DRAWN = {'task.budget.kind': 'drawn', 'task.budget.weight': 0.1,
         'task.budget.reduction': 'mean_share', 'task.budget.distance': 'absolute'}


class Subject(NamedTuple):
  """A network that a plan trains.

  Attributes:
    experiment: its registered name.
    options: field -> value.
    budgets: at which the trained network is measured; empty: it takes none.
    image_scale: of the size of images, beside that of the others.
    is_plain: whether it is what people have without this package.
  """
  experiment: str
  options: Options = {}
  budgets: Sequence[float] = ()
  image_scale: float = 1.0
  is_plain: bool = False

  def overrides(self, image_size: Sequence[int]) -> dict[str, Any]:
    """Returns field -> value, the size of images among them.

    Args:
      image_size: height and width of the images of the plan.
    """
    size = [max(_STRIDE, round(self.image_scale * side / _STRIDE) * _STRIDE)
            for side in image_size]
    frozen = _FROZEN if 'efficientnetlite0' in self.experiment else {}
    return {**frozen, **self.options, 'task.model.input_size': [*size, 3]}


class Claim(NamedTuple):
  """Something that a study is to decide: `left` is more accurate than `right` plus a margin.

  Attributes:
    text: the claim in words.
    left: name of a subject, or `name@budget`.
    right: the same.
    margin: added to the precision of `right`; below 0, `left` may lose so much.
  """
  text: str
  left: str
  right: str
  margin: float = 0.0


class Plan(NamedTuple):
  """A study.

  Attributes:
    subjects: name -> what is trained.
    claims: what it is to decide.
  """
  subjects: Mapping[str, Subject]
  claims: Sequence[Claim]


def _plain(detector: str, form: str, width: int | None = None, image_scale: float = 1.0
           ) -> Subject:
  options = dict.fromkeys(_WIDTHS[detector], width) if width else {}
  return Subject(form.format('fpn'), options, (), image_scale, True)


def _at(share: float, reduction: str = 'mean_share', weight: float = 1.0) -> dict[str, Any]:
  """Returns a budget of one share."""
  return {'task.budget.kind': 'share', 'task.budget.weight': weight, 'task.budget.target': share,
          'task.budget.reduction': reduction, 'task.budget.distance': 'squared'}


def _frontier() -> Plan:
  """Detectors that take their budget, beside one training for each budget and beside plain ones."""
  dyfpn, head = _NECK.format('dyfpn'), _HEAD.format('dynamichead')
  subjects = {
      'fpn': _plain('retinanet', _NECK),
      'fpn_small_image': _plain('retinanet', _NECK, None, _SMALL),
      'fpn_narrow': _plain('retinanet', _NECK, 32),
      'fpn_small_narrow': _plain('retinanet', _NECK, 32, _SMALL),
      'fcos': _plain('fcos', _HEAD),
      'fcos_narrow': _plain('fcos', _HEAD, 32),
      'dyfpn_budget': Subject(
          dyfpn, {'task.model.decoder.dyfpn.gate.budget_input': True, **DRAWN}, BUDGETS),
      'dynamic_head_budget': Subject(
          head, {'task.model.head.tower.dynamic.budget_input': True, **DRAWN,
                 'task.budget.draw_range': [0.1, 0.9]}, BUDGETS),
      'ifpn_budget': Subject(
          _NECK.format('ifpn'), {'task.model.decoder.ifpn.solver.budget_input': True,
                                 'task.budget.kind': 'drawn',
                                 'task.budget.draw_range': [0.0, 0.8]}, BUDGETS[::2]),
      'caddet_budget': Subject(
          'fcos_caddet_sample', {
              'task.model.backbone.caddet.budget_input': True,
              'task.model.backbone.caddet.router_norm': 'group', **DRAWN,
              'task.budget.draw_range': [0.1, 0.9], 'task.budget.start_step': 0,
              'task.budget.path_similarity.weight': 0.0}, BUDGETS),
  }
  for share in (0.2, 0.4, 0.7):
    subjects[f'dyfpn_{share}'] = Subject(dyfpn, _at(share))
    subjects[f'dynamic_head_{share}'] = Subject(head, _at(share))
  claims = [Claim(f'One training of {name} is within 0.01 AP of a separate one at {share}',
                  f'{name}_budget@{share}', f'{name}_{share}', -0.01)
            for name in ('dyfpn', 'dynamic_head') for share in (0.2, 0.4, 0.7)]
  claims += [Claim(f'dyfpn_budget at 0.4 is ahead of {rival}', 'dyfpn_budget@0.4', rival)
             for rival in ('fpn', 'fpn_small_image', 'fpn_narrow')]
  claims += [Claim(f'dynamic_head_budget at 0.4 is ahead of {rival}', 'dynamic_head_budget@0.4',
                   rival) for rival in ('fcos', 'fcos_narrow')]
  return Plan(subjects, claims)


def _wide() -> Plan:
  """FCOS whose head is most of the work, for images of 512 x 640 pixels."""
  wide = dict.fromkeys(_WIDTHS['fcos'], _WIDE)
  head = _HEAD.format('dynamichead')
  subjects = {
      'fcos': _plain('fcos', _HEAD, _WIDE),
      'dynamic_head_budget': Subject(
          head, {**wide, 'task.model.head.tower.dynamic.budget_input': True, **DRAWN,
                 'task.budget.draw_range': [0.1, 0.9]}, BUDGETS),
      'fcos_small_image': _plain('fcos', _HEAD, _WIDE, _SMALL),
      'fcos_narrow': _plain('fcos', _HEAD, _WIDE // 2),
      'dynamic_head_0.2': Subject(head, {**wide, **_at(0.2)}),
  }
  return Plan(subjects, [
      Claim(f'dynamic_head_budget at {budget} is ahead of {rival}', f'dynamic_head_budget@{budget}',
            rival) for budget in (0.2, 0.4) for rival in subjects if subjects[rival].is_plain])


def _gains() -> Plan:
  """The papers' networks beside what they extend, each with its own recipe."""
  head = _HEAD.format('dynamichead')
  tower = 'task.model.head.tower.dynamic.'
  gate = 'task.model.decoder.dyfpn.gate.'
  fixed = {f'{tower}{step}_step': 'fixed' for step in ('scale', 'depth')}
  subjects = {
      'fpn': _plain('retinanet', _NECK),
      'inception_fpn': Subject(_NECK.format('inception_fpn')),
      **{f'dyfpn_{block}_{share}': Subject(
          _NECK.format('dyfpn'), {'task.model.decoder.dyfpn.block': block, **_at(share)})
         for block in ('a', 'b') for share in (0.3, 0.6)},
      # The last path runs the branches.
      'dyfpn_random': Subject(_NECK.format('dyfpn'), {
          f'{gate}type': 'random', f'{gate}random_probability': 0.6, 'task.budget.weight': 0.0}),
      'drfpn': Subject(_NECK.format('drfpn')),
      'ifpn': Subject(_NECK.format('ifpn')),
      'ifpn_unroll': Subject(
          _NECK.format('ifpn'), {'task.model.decoder.ifpn.solver.gradient': 'unroll'}),
      'fcos': _plain('fcos', _HEAD),
      'fcos_fixed': Subject(head, {'task.budget.weight': 0.0, **fixed}),
      **{f'dynamic_head_{weight}': Subject(head, {'task.budget.weight': weight})
         for weight in (0.0, 0.4, 1.6)},
      **{f'caddet_{name}': Subject('fcos_caddet_sample', options) for name, options in {
          'none': {'task.budget.weight': 0.0, 'task.budget.path_similarity.weight': 0.0},
          'fixed': {'task.budget.kind': 'fixed', 'task.budget.ratio': 0.6,
                    'task.budget.path_similarity.weight': 0.0},
          'dynamic': {'task.budget.ratio': 0.25, 'task.budget.path_similarity.weight': 0.0},
          'similarity': {'task.budget.ratio': 0.25}}.items()},
  }
  return Plan(subjects, [
      Claim('Inception FPN is ahead of FPN', 'inception_fpn', 'fpn'),
      Claim('DyFPN (block B, 0.6) is within 0.005 AP of inception FPN', 'dyfpn_b_0.6',
            'inception_fpn', -0.005),
      Claim('The gates of DyFPN are ahead of random signals', 'dyfpn_b_0.6', 'dyfpn_random'),
      Claim('The dynamic head is within 0.005 AP of the fixed one', 'dynamic_head_0.4',
            'fcos_fixed', -0.005),
      Claim('The implicit gradient is not behind unrolling', 'ifpn', 'ifpn_unroll', -0.005),
  ])


PLANS = {'frontier': _frontier(), 'gains': _gains(), 'wide': _wide()}
