"""Distillation after stage 2: the mask head is trained to need no guidance and fewer steps (not in the paper).

    python launch/train.py --config configs/distill.py                       # shapes, from the run of K = 5, seed 0
    python launch/train.py --config configs/distill.py:coco,shots=10 --config.init_from=WORKDIR
    python launch/evaluate.py --config configs/distill.py                    # 2 network evaluations per mask

Guidance distillation comes first: one network evaluation learns the result of the teacher's two evaluations with
guidance, at the teacher's steps (--config.distill.guidance=W; without guidance there is nothing to learn). Then each
round of progressive distillation halves the steps. Masks are sampled in as many steps as the last round has: change
`model.mask.diffusion.steps` with `distill.rounds`. It starts from the matching run of stage 2, or from another of the
same shots with ``--config.init_from=WORKDIR``. A head that predicts eps (paper=true) cannot be distilled. Only what
differs from ``configs/fewshot.py`` is set here.
"""

from ml_collections import ConfigDict

from configs import fewshot


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of distillation; ``arg`` as in ``configs/fewshot.py``."""
    config = fewshot.get_config(arg).unlock()
    config.stage = "distill"
    diffusion, train = config.model.mask.diffusion, config.train
    config.distill.guidance = diffusion.guidance
    diffusion.update(
        sampler="ddim", steps=config.distill.rounds[-1], guidance=1.0, eta=0.0, averaged=1,
        guidance_interval=(0.0, 1.0), variance="fixed_small",
    )  # fmt: skip
    config.data.shot_drop = 0.0
    for phase in (train.detector, train.novel):
        phase.steps = 0
    train.mask.schedule = "cosine"
    if config.preset.startswith("shapes"):
        train.mask.update(steps=300, batch=8, lr=5e-4, warmup=20, ema=0.98)
    elif config.size == "tiny":
        train.mask.update(steps=1000, lr=1e-4, warmup=20, ema=0.98)
    else:
        train.mask.update(steps=10_000, lr=5e-5, warmup=100, ema=0.999)
    return config.lock()
