"""Options that several components or tasks have: gates, fixed points, budgets and image sizes."""
import dataclasses

from official.modeling import hyperparams

# Sizes in pixels of the network's input at which one scale of objects ends and the next begins.
SCALE_BOUNDS = (64.0, 150.0, 360.0)


@dataclasses.dataclass
class GateConfig(hyperparams.Config):
  """Options of a gate that chooses a path for each image and level.

  Attributes:
    type: `channel` (the CNN gate), `recurrent` (the GRU gate) or `random`, a signal that draws
      a path without looking at the image, in training and at inference.
    direction: order of the levels for the recurrent gate, `upward` (fine to coarse) or
      `downward`.
    temperature: temperature of the Gumbel softmax, positive.
    initial_bias: initial value of the last bias, one number per path; null: [0.1, 2.0] for the
      channel gate of block B, as in the released code, and uniform otherwise.
    evaluation: how `channel` and `recurrent` choose at inference: `argmax`, the most probable
      path, or `random`, each path with equal probability.  `task.sampled_evaluation_runs`
      evaluates paths that are drawn with the probabilities of the gate.
    random_probability: probability of the last path of the random signal, the other paths share
      the rest; null: all paths are equally probable.
    seed: seed of the noise.
    budget_input: whether the gate follows the budget of a call, `routing.spending`; training then
      needs a budget of the kind `drawn`.
  """
  type: str = 'channel'
  direction: str = 'upward'
  temperature: float = 1.0
  initial_bias: list[float] | None = None
  evaluation: str = 'argmax'
  random_probability: float | None = None
  seed: int = 0
  budget_input: bool = False


@dataclasses.dataclass
class SolverConfig(hyperparams.Config):
  """Options of a solver of x = f(x) and of the gradient through the solution.

  Attributes:
    solver: `anderson`, `broyden`, or `unroll`, which applies f a fixed number of times.
    training_evaluations: number of evaluations of f in the forward pass of training, to which
      `gradient` adds its own.  T steps of Broyden are T + 1 evaluations.
    inference_evaluations: number of evaluations of f at inference; `unroll` needs the same
      number as in training.
    backward_evaluations: number of vector-Jacobian products of the implicit gradient.
    tolerance: relative residual at which an image stops; 0: every image runs all evaluations.
    memory: number of iterates that `anderson` combines; `broyden` keeps all its steps.
    step_size: factor of the steps of `broyden` (alpha in i-FPN's eqs. 10-11), positive; the
      other solvers need 1.
    gradient: `implicit`, `phantom`, `jacobian_free`, or `unroll`, which differentiates the
      steps of the solver.
    phantom_steps: number of differentiated applications of f that follow the solution.
    phantom_damping: share of f in each of these applications, in (0, 1].
    warmup_unroll_steps: number of training steps at the start that apply f
      `warmup_evaluations` times instead of solving, and differentiate these applications.
      Inference always solves.
    warmup_evaluations: number of applications of f in such a training step.
    budget_input: whether the budget of a call, `routing.spending`, says how many evaluations each
      image runs; training then needs a budget of the kind `drawn`.
    least_evaluations: the number at a budget of 0; between it and those above, which run at a
      budget of 1, it grows with the budget.
  """
  solver: str = 'anderson'
  training_evaluations: int = 5
  inference_evaluations: int = 5
  backward_evaluations: int = 3
  tolerance: float = 0.0
  memory: int = 5
  step_size: float = 1.0
  gradient: str = 'implicit'
  phantom_steps: int = 3
  phantom_damping: float = 1.0
  warmup_unroll_steps: int = 0
  warmup_evaluations: int = 3
  budget_input: bool = False
  least_evaluations: int = 1


@dataclasses.dataclass
class PathSimilarityConfig(hyperparams.Config):
  """Options of CADDet's loss that makes the paths of images with like object scales alike.

  Attributes:
    weight: factor of the loss in the total (lambda_2); 0 for no such loss.
    minimum: wanted similarity of the paths of images that have no scale alike.
    maximum: wanted similarity where all scales are alike.
  """
  weight: float = 0.0
  minimum: float = 0.6
  maximum: float = 0.95


@dataclasses.dataclass
class InformationConfig(hyperparams.Config):
  """Options of the reward for gates that are sure, and differ by image.

  Attributes:
    weight: factor of the mutual information of image and gate, in nats, that is taken off the
      total; 0 for no such reward.
    start_step: the first training step with it.
  """
  weight: float = 0.0
  start_step: int = 0


@dataclasses.dataclass
class BudgetConfig(hyperparams.Config):
  """Options of the loss that pulls the cost of a routed network to a target.

  `share` is for every routed network: its target is a share of what gates can save.  So it is for
  `drawn`, which is for networks with `budget_input`: every step draws a target and gives it to the
  network.  The other kinds are for the backbone `caddet`: their target is a share of the cost of
  that backbone with every path open.

  Attributes:
    weight: factor of the loss in the total (lambda); 0 for no budget.
    part: whose cost it pulls: that of the `backbone`, the `decoder` or the `head`, or of `all`
      of them together.  Only layers with gates count.
    kind: `share`, the same target for all images; `drawn`, another target at each step, the same
      for all its images and replicas, and 1 in evaluation; `fixed`, the same for all images;
      `scale_aware`, by how many scales the objects of the image have; `loss_aware`, by the
      detection loss of the image.
    target: for `share`, the wanted share of what gates can save (alpha), from 0, all shut, to 1,
      all open.
    reduction: for `share` and `drawn`, what becomes one loss of the images' shares: `mean` of their
      distances from the target, `sum` of them over the images of a replica, or `mean_share`, the
      distance of their mean over all replicas, so that images of a batch may differ.
    distance: for `share` and `drawn`, the `squared` or `absolute` distance of a share from the
      target.
    draw_range: for `drawn`, between which shares targets are drawn, all with equal probability.
    full_every: for `drawn`, every how many steps the target is 1 instead, at steps 0, n, 2n ...;
      0: never.
    shrink_steps: for `drawn`, until which step targets start near 1 and their distance from it
      grows; 0: they are drawn from the whole range at once.
    ratio: for the other kinds, the wanted share of the cost of the backbone (C_0): for
      `scale_aware` per scale, for `loss_aware` for the image with the least loss.
    scale_bounds: sizes in pixels of the network's input at which one scale of objects ends and
      the next begins.
    path_similarity: a further loss, beside a budget of any kind or none.  It compares the gates
      of the backbone `caddet` if that is in the part, and else all gates of the part that decide
      for whole images.
    information: a reward for gates of the part that differ by image, beside a budget of any kind or
      none; see `losses/information.py`.
    start_step: the first training step with these losses.
  """
  weight: float = 0.0
  part: str = 'all'
  kind: str = 'share'
  target: float = 0.5
  reduction: str = 'mean'
  distance: str = 'squared'
  draw_range: list[float] = dataclasses.field(default_factory=lambda: [0.1, 0.8])
  full_every: int = 2
  shrink_steps: int = 0
  ratio: float = 0.05
  scale_bounds: list[float] = dataclasses.field(default_factory=lambda: list(SCALE_BOUNDS))
  path_similarity: PathSimilarityConfig = dataclasses.field(
      default_factory=PathSimilarityConfig)
  information: InformationConfig = dataclasses.field(default_factory=InformationConfig)
  start_step: int = 0


@dataclasses.dataclass
class ResizeConfig(hyperparams.Config):
  """Options of the size of images, the same in training, evaluation, export and prediction.

  Attributes:
    rule: `garden`, Model Garden's: every image is fitted into `model.input_size`; or `paper`: the
      short side becomes `short_side` pixels, but the long side at most `long_side`, whether the
      image is wide or tall.  `paper` needs `model.input_size` [null, null, 3].
    short_side: for `paper`, in pixels.
    long_side: for `paper`, in pixels.
    training_short_sides: for `paper`, short sides of which each image of training draws one; null:
      `short_side` alone.  The images of a batch have the same one.
    aspect_ratios: for `paper`, the static sizes of the network's input.  For each ratio r there are
      a wide and a tall one, with a long side of r short sides; two more hold all other images.
      An image gets the smallest that holds it; a batch has images of one size.  An empty list
      leaves two sizes for each short side.
  """
  rule: str = 'garden'
  short_side: int = 800
  long_side: int = 1333
  training_short_sides: list[int] | None = None
  aspect_ratios: list[float] = dataclasses.field(default_factory=lambda: [1.34, 1.51])
