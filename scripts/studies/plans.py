"""The plans of studies: the networks that are trained, and the claims that are tested."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from studies.subjects import BUDGETS
from studies.subjects import DRAWN
from studies.subjects import DYFPN_BUDGET
from studies.subjects import dynamic_head_budget
from studies.subjects import fcos
from studies.subjects import IFPN_BUDGET
from studies.subjects import NETWORKS
from studies.subjects import ONE_BLOCK
from studies.subjects import Options
from studies.subjects import REPLACE
from studies.subjects import retinanet
from studies.subjects import Subject

_HEADS = ('task.model.decoder.fpn.num_filters', 'task.model.head.num_filters')
_SMALL = 0.75
_NARROW, _MIDDLE = 32, 48
# With so many filters a plain RetinaNet costs what i-FPN with one or two evaluations does.
_BROAD = 88
# With so many a fixed head of one block costs what a dynamic one of 64 does that leaves out four
# fifths.
_FIXED = 40
# Filters of heads that are most of the work at 512 x 640 pixels.
_WIDE, _WIDE_MIDDLE = 128, 96


# In place of a subject: the most accurate plain one that costs at most as much.
ANY_PLAIN = '*'


class Claim(NamedTuple):
  """Something that a study is to decide: a figure of `left` is above that of `right` plus a margin.

  Attributes:
    text: the claim in words.
    left: name of a subject, or `name@budget`.
    right: the same, or `ANY_PLAIN`.
    margin: added to the figure of `right`; below 0, `left` may lose so much.
    figure: what is compared: `ap`, or `spread`, the GMAC between the cheapest and the dearest
      image.
  """
  text: str
  left: str
  right: str
  margin: float = 0.0
  figure: str = 'ap'


class Plan(NamedTuple):
  """A study.

  Attributes:
    subjects: name -> what is trained.
    claims: what it is to decide.
  """
  subjects: Mapping[str, Subject]
  claims: Sequence[Claim]


def _plain(detector: Callable[..., Subject], width: int | None = None, image_scale: float = 1.0,
           options: Options | None = None) -> Subject:
  """Returns a plain detector of a width."""
  widths = dict.fromkeys(_HEADS, width) if width else {}
  return detector('fpn', {**widths, **(options or {})}, image_scale=image_scale, is_plain=True)


def _at(share: float, reduction: str = 'mean_share', weight: float = 1.0) -> dict[str, Any]:
  """Returns a budget of one share."""
  return {'task.budget.kind': 'share', 'task.budget.weight': weight, 'task.budget.target': share,
          'task.budget.reduction': reduction, 'task.budget.distance': 'squared'}


def _frontier() -> Plan:
  """Detectors that take their budget, beside one training for each budget and beside plain ones."""
  subjects = {
      'fpn': _plain(retinanet),
      'fpn_small_image': _plain(retinanet, None, _SMALL),
      'fpn_narrow': _plain(retinanet, _NARROW),
      'fpn_middle': _plain(retinanet, _MIDDLE),
      'fpn_broad': _plain(retinanet, _BROAD),
      'fpn_small_narrow': _plain(retinanet, _NARROW, _SMALL),
      'fcos': _plain(fcos),
      'fcos_small_image': _plain(fcos, None, _SMALL),
      'fcos_narrow': _plain(fcos, _NARROW),
      'fcos_middle': _plain(fcos, _MIDDLE),
      'dyfpn_budget': retinanet('dyfpn', DYFPN_BUDGET, BUDGETS),
      'dynamic_head_budget': dynamic_head_budget(),
      'dynamic_head_d1_budget': dynamic_head_budget(ONE_BLOCK),
      'dynamic_head_replace_budget': dynamic_head_budget(REPLACE),
      'ifpn_budget': retinanet('ifpn', IFPN_BUDGET, BUDGETS[::2]),
      'caddet_budget': Subject('fcos_caddet_sample', {
          'task.model.backbone.caddet.budget_input': True,
          'task.model.backbone.caddet.router_norm': 'group', **DRAWN,
          'task.budget.draw_range': [0.1, 0.9], 'task.budget.start_step': 0,
          'task.budget.path_similarity.weight': 0.0}, BUDGETS),
      # 0.4 of the way from one evaluation to five, to the nearest whole number.
      'ifpn_0.4': retinanet('ifpn', {
          f'task.model.decoder.ifpn.solver.{phase}_evaluations': 3
          for phase in ('training', 'inference')}),
      'caddet_0.4': Subject('fcos_caddet_sample', {
          **_at(0.4), 'task.model.backbone.caddet.router_norm': 'group',
          'task.budget.start_step': 0, 'task.budget.path_similarity.weight': 0.0}),
  }
  for share in (0.2, 0.4, 0.7):
    subjects[f'dyfpn_{share}'] = retinanet('dyfpn', _at(share))
    subjects[f'dynamic_head_{share}'] = fcos('dynamichead', _at(share))
    subjects[f'dynamic_head_d1_{share}'] = fcos('dynamichead', {**ONE_BLOCK, **_at(share)})
    subjects[f'dynamic_head_replace_{share}'] = fcos('dynamichead', {**REPLACE, **_at(share)})
  claims = [Claim(f'One training of {name} is within 0.01 AP of a separate one at {share}',
                  f'{name}_budget@{share}', f'{name}_{share}', -0.01)
            for name in ('dyfpn', 'dynamic_head', 'dynamic_head_d1', 'dynamic_head_replace', 'ifpn',
                         'caddet')
            for share in (0.2, 0.4, 0.7) if f'{name}_{share}' in subjects]
  claims += [Claim(f'{name} at 0.4 is ahead of every plain detector of at most its cost',
                   f'{name}@0.4', ANY_PLAIN)
             for name, subject in subjects.items() if subject.budgets]
  claims += [Claim(f'dyfpn_budget at 0.4 is ahead of {rival}', 'dyfpn_budget@0.4', rival)
             for rival in ('fpn', 'fpn_small_image', 'fpn_narrow')]
  claims += [Claim(f'{name} at 0.4 is ahead of {rival}', f'{name}@0.4', rival)
             for name in ('dynamic_head_budget', 'dynamic_head_d1_budget')
             for rival in ('fcos', 'fcos_small_image', 'fcos_narrow')]
  return Plan(subjects, claims)


def _wide() -> Plan:
  """FCOS whose head is most of the work, for images of 512 x 640 pixels."""
  few = {'task.train_data.global_batch_size': 4}
  wide = {**dict.fromkeys(_HEADS, _WIDE), **few}
  subjects = {
      'fcos': _plain(fcos, _WIDE, options=few),
      'dynamic_head_budget': dynamic_head_budget(wide),
      'fcos_small_image': _plain(fcos, _WIDE, _SMALL, few),
      'fcos_middle': _plain(fcos, _WIDE_MIDDLE, options=few),
      'fcos_narrow': _plain(fcos, _WIDE // 2, options=few),
      'dynamic_head_d1_budget': dynamic_head_budget({**wide, **ONE_BLOCK}),
      'dynamic_head_replace_budget': dynamic_head_budget({**wide, **REPLACE}),
      'dynamic_head_0.2': fcos('dynamichead', {**wide, **_at(0.2)}),
      # The paper's budget: the cost itself.
      'dynamic_head_lambda_0.4': fcos('dynamichead', {**wide, 'task.budget.weight': 0.4}),
      'dynamic_head_d1_lambda_0.4': fcos(
          'dynamichead', {**wide, **ONE_BLOCK, 'task.budget.weight': 0.4}),
  }
  dynamic = {f'{name} at {budget}': f'{name}@{budget}'
             for name, subject in subjects.items() if subject.budgets for budget in (0.2, 0.4)}
  dynamic |= {name: name for name in subjects if name.endswith('lambda_0.4')}
  return Plan(subjects, [
      Claim(f'{text} is ahead of {rival}', name, rival)
      for text, name in dynamic.items() for rival in subjects if subjects[rival].is_plain])


def _gains() -> Plan:
  """The papers' networks beside what they extend, each with its own recipe."""
  tower = 'task.model.head.tower.dynamic.'
  gate = 'task.model.decoder.dyfpn.gate.'
  fixed = {f'{tower}{step}_step': 'fixed' for step in ('scale', 'depth')}
  subjects = {
      'fpn': _plain(retinanet),
      'inception_fpn': retinanet('inception_fpn'),
      **{f'dyfpn_{block.lower()}_{share}': retinanet('dyfpn', {
          'task.model.decoder.dyfpn.block': block, **_at(share)})
         for block in ('A', 'B') for share in (0.3, 0.6)},
      # The last path runs the branches.
      'dyfpn_random': retinanet('dyfpn', {
          f'{gate}type': 'random', f'{gate}random_probability': 0.6, 'task.budget.weight': 0.0}),
      'drfpn': retinanet('drfpn'),
      'ifpn': retinanet('ifpn'),
      'ifpn_unroll': retinanet('ifpn', {
          f'task.model.decoder.ifpn.solver.{name}': 'unroll' for name in ('solver', 'gradient')}),
      'fcos': _plain(fcos),
      'fcos_fixed': fcos('dynamichead', {'task.budget.weight': 0.0, **fixed}),
      **{f'dynamic_head{name}_lambda_{weight}': fcos(
          'dynamichead', {'task.budget.weight': weight, **blocks})
         for name, blocks in (('', {}), ('_d1', ONE_BLOCK)) for weight in (0.0, 0.4, 1.6)},
      'fcos_fixed_d1': fcos('dynamichead', {'task.budget.weight': 0.0, **fixed, **ONE_BLOCK}),
      'fcos_fixed_d1_narrow': fcos('dynamichead', {
          'task.budget.weight': 0.0, **fixed, **ONE_BLOCK, **dict.fromkeys(_HEADS, _FIXED)}),
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
      Claim('The dynamic head is within 0.005 AP of the fixed one',
            'dynamic_head_lambda_0.4', 'fcos_fixed', -0.005),
      Claim('The dynamic head of one block is within 0.005 AP of the fixed one',
            'dynamic_head_d1_lambda_0.4', 'fcos_fixed_d1', -0.005),
      Claim('The dynamic head of one block is ahead of a fixed one of its cost',
            'dynamic_head_d1_lambda_0.4', 'fcos_fixed_d1_narrow'),
      Claim('The dynamic budget of CADDet spreads costs more than the fixed one',
            'caddet_dynamic', 'caddet_fixed', figure='spread'),
      Claim('The implicit gradient is not behind unrolling', 'ifpn', 'ifpn_unroll', -0.005),
  ])


def _towers() -> Plan:
  """FCOS with parts of a block of the dynamic head, beside plain towers.

  Most of the backbone is frozen, so that a training is short.
  """
  frozen = {'task.frozen_stages': ['stem', 'conv2_x', 'conv3_x', 'conv4_x']}
  tower = 'task.model.head.tower.'

  def block(scale: str, depth: str) -> Subject:
    return fcos('dynamichead', {
        **frozen, **ONE_BLOCK, 'task.budget.weight': 0.0, f'{tower}dynamic.scale_step': scale,
        f'{tower}dynamic.depth_step': depth})

  return Plan({
      **{f'plain_{count}': _plain(fcos, options={**frozen, f'{tower}plain.num_convs': count})
         for count in (0, 2, 4)},
      'depth': block('absent', 'fixed'),
      'scale': block('fixed', 'absent'),
      'fixed': block('fixed', 'fixed'),
      'gated': block('gated', 'gated'),
  }, [
      Claim('A block is within 0.005 AP of two plain convolutions', 'gated', 'plain_2', -0.005),
      Claim('Messages between levels are a gain', 'fixed', 'depth'),
  ])


def _information() -> Plan:
  """Networks with a budget, with and without what may make their gates differ by image."""
  frontier = _frontier().subjects
  reward = {'task.budget.information.weight': 0.1, 'task.budget.information.start_step': 100}
  subjects: dict[str, Subject] = {}
  bases = {}  # Name of a changed network -> that of the one without the change.
  for name in ('dyfpn_0.4', 'dynamic_head_d1_0.4', 'dynamic_head_replace_0.4', 'caddet_0.4'):
    subjects[name] = frontier[name]
    subjects[f'{name}_information'] = frontier[name]._replace(
        options={**frontier[name].options, **reward})
    bases[f'{name}_information'] = name
  for temperature in (0.5, 2.0):
    name = f'dyfpn_0.4_temperature_{temperature}'
    subjects[name] = retinanet('dyfpn', {
        **_at(0.4), 'task.model.decoder.dyfpn.gate.temperature': temperature})
    bases[name] = 'dyfpn_0.4'
  return Plan(subjects, [
      *(Claim(f'{name} spreads costs more than {base}', name, base, figure='spread')
        for name, base in bases.items()),
      *(Claim(f'{name} is within 0.01 AP of {base}', name, base, -0.01)
        for name, base in bases.items())])


PLANS = {'frontier': _frontier(), 'gains': _gains(), 'information': _information(),
         'towers': _towers(), 'wide': _wide(), 'full': Plan(NETWORKS, [])}
