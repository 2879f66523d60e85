"""A PyTorch port of nets/unet.py, for timing only; parameter names are guided-diffusion's. Needs torch, numpy.

    VENV/bin/python benchmarks/timing/torch_unet.py --check=tests/goldens/unet_small_ssn1     # against a stored output
    VENV/bin/python benchmarks/timing/torch_unet.py --what=sample --batch=8 ... # one worker of sampling.py

It does what ours does in the measured setting: scale-shift norms, single convolutions between levels, a class
table in each residual block, and guided DDIM steps whose two branches run as one batch.
"""

import argparse
import json
import statistics
import time
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


class Res(nn.Module):
    """Residual block; time scales and shifts the second norm, the class adds to the shift."""

    def __init__(self, cin: int, cout: int, emb: int, classes: int):
        super().__init__()
        self.in_layers = nn.Sequential(norm(cin), nn.SiLU(), nn.Conv2d(cin, cout, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * cout))
        self.out_layers = nn.Sequential(norm(cout), nn.SiLU(), nn.Dropout(0), nn.Conv2d(cout, cout, 3, padding=1))
        self.skip_connection = nn.Identity() if cin == cout else nn.Conv2d(cin, cout, 1)
        self.class_table = nn.Linear(classes, cout, bias=False) if classes else None

    def forward(self, x: Tensor, emb: Tensor, onehot: Tensor | None) -> Tensor:
        h = self.in_layers(x)
        scale, shift = self.emb_layers(emb).chunk(2, 1)
        if self.class_table is not None and onehot is not None:
            shift = shift + self.class_table(onehot)
        h = self.out_layers[0](h) * (1 + scale[..., None, None]) + shift[..., None, None]
        return self.skip_connection(x) + self.out_layers[1:](h)


class Attend(nn.Module):
    """Self-attention over the pixels; channels of qkv are [head, (q, k, v), d]."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).reshape(n, c, h * w)).reshape(n, self.heads, 3, c // self.heads, h * w)
        q, k, v = (qkv[:, :, i].transpose(-1, -2) for i in range(3))
        out = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h * w)
        return x + self.proj_out(out).reshape(x.shape)


class Down(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Up(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Chain(nn.Sequential):
    """Layers of one numbered block; the residual ones also see time and class."""

    def forward(self, x: Tensor, emb: Tensor, onehot: Tensor | None) -> Tensor:
        for layer in self:
            x = layer(x, emb, onehot) if isinstance(layer, Res) else layer(x)
        return x


class UNet(nn.Module):
    """As maskdiff_jax.nets.unet.UNet, channels first."""

    def __init__(
        self, cin: int, cout: int, width: int, multipliers=(1, 1, 2, 3, 4), blocks: int = 2, attention=(3,),
        heads: int = 4, head_channels: int = -1, classes: int = 0,
    ):  # fmt: skip
        super().__init__()
        self.width = width
        emb = 4 * width

        def attend(channels: int) -> Attend:
            return Attend(channels, heads if head_channels == -1 else channels // head_channels)

        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([Chain(nn.Conv2d(cin, width, 3, padding=1))])
        skips, c = [width], width
        for level, m in enumerate(multipliers):
            for _ in range(blocks):
                layers: list[nn.Module] = [Res(c, width * m, emb, classes)]
                c = width * m
                if level in attention:
                    layers.append(attend(c))
                self.input_blocks.append(Chain(*layers))
                skips.append(c)
            if level + 1 < len(multipliers):
                self.input_blocks.append(Chain(Down(c)))
                skips.append(c)
        self.middle_block = Chain(Res(c, c, emb, classes), attend(c), Res(c, c, emb, classes))
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(multipliers))):
            for i in range(blocks + 1):
                layers = [Res(c + skips.pop(), width * m, emb, classes)]
                c = width * m
                if level in attention:
                    layers.append(attend(c))
                if level and i == blocks:
                    layers.append(Up(c))
                self.output_blocks.append(Chain(*layers))
        self.out = nn.Sequential(norm(c), nn.SiLU(), nn.Conv2d(c, cout, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, onehot: Tensor | None = None) -> Tensor:
        half = self.width // 2
        frequency = torch.exp(-np.log(10000.0) * torch.arange(half, device=x.device, dtype=torch.float32) / half)
        phase = t.float()[:, None] * frequency
        emb = self.time_embed(torch.cat([phase.cos(), phase.sin()], -1))
        h, kept = x, []
        for block in self.input_blocks:
            h = block(h, emb, onehot)
            kept.append(h)
        h = self.middle_block(h, emb, onehot)
        for block in self.output_blocks:
            h = block(torch.cat([h, kept.pop()], 1), emb, onehot)
        return self.out(h.float())


def recipe(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of the stored outputs, by the rule of tests/parity/weight_recipe.py."""
    z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return 1 + np.float32(0.1) * z if name.endswith(".weight") else np.float32(0.05) * z
    return z / np.float32(np.sqrt(np.prod(shape[1:])))


def check(stem: str) -> None:
    """Prints the largest relative difference from a stored output."""
    with open(stem + ".json") as file:
        c = json.load(file)["config"]
    z = np.load(stem + ".npz")
    small = c["model_channels"] < 128
    net = UNet(
        c["in_channels"], c["out_channels"], c["model_channels"], heads=c.get("num_heads", 4),
        head_channels=32 if small else -1,
    )  # fmt: skip
    state = {k: torch.from_numpy(recipe(k, tuple(v.shape))) for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    with torch.inference_mode():
        times = z["timesteps"].reshape(len(z["output"]), -1)
        x = torch.from_numpy(z["x"])
        worst = 0.0
        for t, want in zip(times, z["output"], strict=True):
            got = net(x, torch.from_numpy(np.broadcast_to(t, len(x)).copy())).numpy()
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    print(json.dumps({"golden": stem.rsplit("/", 1)[-1], "relative_difference": worst}))


def main() -> None:
    """A check or one measurement; prints json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", help="path of a golden without its ending")
    parser.add_argument("--what", choices=("sample", "train"), help="masks, or a training step")
    parser.add_argument("--mode", choices=("eager", "compile"), default="eager")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch", type=int, default=8, help="objects")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--shots", type=int, default=5)
    args = parser.parse_args()
    if args.check:
        check(args.check)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = UNet(4 + 3 * args.shots, 1, 128, classes=80).to(device, memory_format=torch.channels_last)
    run = torch.compile(net) if args.mode == "compile" else net
    cast = torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16")
    n = args.batch
    cond = torch.rand(n, 3 + 3 * args.shots, 128, 128, device=device).to(memory_format=torch.channels_last)
    onehot = F.one_hot(torch.arange(n, device=device) % 80, 80).float()
    call = sampling(run, cast, cond, onehot, args) if args.what == "sample" else training(net, run, cast, cond, onehot)

    def timed() -> None:
        call()
        if device == "cuda":
            torch.cuda.synchronize()

    start = time.perf_counter()
    timed()
    first = time.perf_counter() - start
    for _ in range(3 if device == "cuda" else 0):
        timed()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 3.0 and len(seconds) < 50):
        start = time.perf_counter()
        timed()
        seconds.append(time.perf_counter() - start)
    gb = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    result = {"seconds": statistics.median(seconds), "first_call_s": first, "gb": gb, "torch": torch.__version__}
    print(json.dumps(result))


def sampling(run, cast, cond: Tensor, onehot: Tensor, args: argparse.Namespace):
    """Guided DDIM from fixed noise; the net's output is the logit of the mask, coded as +-0.5."""
    betas = np.linspace(1e-4, 0.02, 1000)
    abar = np.cumprod(1 - betas)
    times = [round(1000 - k * 1000 / args.steps) - 1 for k in range(args.steps)]
    noise = torch.randn(len(cond), 1, 128, 128, device=cond.device)
    guided = args.guidance != 1.0
    both = torch.cat([cond, cond]) if guided else cond
    classes = torch.cat([onehot, torch.zeros_like(onehot)]) if guided else onehot

    def call() -> Tensor:
        y = noise
        with torch.inference_mode(), cast:
            for i, t in enumerate(times):
                now, to = abar[t], abar[times[i + 1]] if i + 1 < len(times) else 1.0
                x = y / (0.25 * now + 1 - now) ** 0.5
                x = torch.cat([x, x]) if guided else x
                index = torch.full((len(x),), t, device=x.device)
                x0 = 0.5 * torch.tanh(0.5 * run(torch.cat([x, both], 1), index, classes).float())
                if guided:
                    own, free = x0.chunk(2)
                    x0 = free + args.guidance * (own - free)
                x0 = x0.clamp(-0.5, 0.5)
                a = ((1 - to) / (1 - now)) ** 0.5
                y = a * y + (to**0.5 - a * now**0.5) * x0
        return y

    return call


def training(net, run, cast, cond: Tensor, onehot: Tensor):
    """One step of AdamW with an EMA of the weights."""
    adam = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=0.0, fused=cond.is_cuda)
    mean = [p.detach().clone() for p in net.parameters()]
    y = torch.randn(len(cond), 1, 128, 128, device=cond.device)
    x = torch.cat([y, cond], 1).to(memory_format=torch.channels_last)
    target = (torch.rand_like(y) > 0.5).float()
    t = torch.arange(len(cond), device=cond.device) % 1000

    def call() -> None:
        with cast:
            out = run(x, t, onehot)
            loss = F.binary_cross_entropy_with_logits(out.float(), target)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        torch._foreach_lerp_(mean, [p.detach() for p in net.parameters()], 1e-4)

    return call


if __name__ == "__main__":
    main()
