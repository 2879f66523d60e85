"""Stage 2: classifier, box regressor and mask head, jointly, on K shots of every class.

    python launch/train.py --config configs/fewshot.py                       # shapes, K = 5, seed 0
    python launch/train.py --config configs/fewshot.py:coco,shots=10,seed=3

Starts from the matching stage-1 run (or ``--config.init_from=WORKDIR``); backbone, FPN, RPN and the two
fully connected layers stay as they are. Only what differs from ``configs/base.py`` stands here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str | None = None) -> ConfigDict:
    """The locked config of stage 2; ``arg`` is ``[preset][,shots=K][,seed=N][,paper=true][,weights=NAME]
    [,split=NAME]``.

    ``weights`` and ``split`` as in stage 1: stage 2 sees the pixels as stage 1 did, and learns from its images.
    """
    preset, options = base.parse_arg(arg, {"shots": 5, "seed": 0, "paper": False, "weights": "", "split": ""})
    if options["weights"] == "zoo":
        raise ValueError("weights=zoo has seen the novel classes: it is there to check the detector, not for stage 2")
    same = ",".join(f"{key}={options[key]}" for key in ("paper", "weights", "split"))
    c = base.get_config(f"{preset},{same}").unlock()
    c.stage = "fewshot"
    c.fewshot.shots, c.fewshot.seed = options["shots"], options["seed"]
    r = c.train
    # everything but the last layers of the detector is frozen [P, TFA section 2.2]
    r.frozen = (r"detector/(backbone|fpn|rpn|box_head)/.*",)
    if options["shots"] == 1:
        c.data.shot_drop = 0.2  # the only shot is the query itself: do not let the head lean on it (A17)
    if preset.startswith("shapes"):
        r.novel.update(steps=100, batch=8, optimizer="adamw", lr=3e-3, schedule="cosine", ema=0.0)
        r.detector.update(steps=200, batch=8, lr=1e-3, ema=0.9)
        r.mask.update(steps=200, batch=16, lr=2e-4, ema=0.98)
    else:
        # AdamW 1e-4 for all three heads is the paper's reading (A19); lengths as TFA, section 2.3
        k = {1: (500, 16_000), 5: (1500, 80_000), 10: (2000, 160_000)}
        novel, joint = k.get(options["shots"], k[10])
        r.novel.steps = novel
        r.detector.update(steps=joint, optimizer="adamw", lr=1e-4, weight_decay=0.0, warmup=10, ema=0.999)
        r.mask.update(steps=joint, lr=1e-4, warmup=10, ema=0.999)
    return c.lock()
