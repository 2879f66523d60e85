"""After stage 2: the mask head learns to draw without guidance and in fewer steps (not in the paper).

    python launch/train.py --config configs/distill.py                       # shapes, from the run of K = 5, seed 0
    python launch/train.py --config configs/distill.py:coco,shots=10 --config.init_from=WORKDIR
    python launch/evaluate.py --config configs/distill.py                    # draws in 2 passes per mask

First one pass learns what the teacher's two passes with guidance give, at the teacher's steps
(--config.distill.guidance=W; without guidance there is nothing to learn); then each round halves the steps. Masks are
drawn in as many steps as the last round has: change `model.mask.diffusion.steps` with `distill.rounds`. Starts from
the matching stage-2 run, or another of the same shots with ``--config.init_from=WORKDIR``. A head that predicts eps
(paper=true) cannot be distilled. Only what differs from ``configs/fewshot.py`` stands here.
"""

from ml_collections import ConfigDict

from configs import fewshot


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of distillation; ``arg`` as in ``configs/fewshot.py``."""
    c = fewshot.get_config(arg).unlock()
    c.stage = "distill"
    f, r = c.model.mask.diffusion, c.train
    c.distill.guidance = f.guidance
    f.update(
        sampler="ddim", steps=c.distill.rounds[-1], guidance=1.0, eta=0.0, averaged=1, guidance_interval=(0.0, 1.0)
    )
    f.variance = "fixed_small"
    c.data.shot_drop = 0.0
    for phase in (r.detector, r.novel):
        phase.steps = 0
    r.mask.schedule = "cosine"
    if c.preset.startswith("shapes"):
        r.mask.update(steps=300, batch=8, lr=5e-4, warmup=20, ema=0.98)
    else:
        r.mask.update(steps=10_000, lr=5e-5, warmup=100, ema=0.999)
    return c.lock()
