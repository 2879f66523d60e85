"""One worker of benchmarks/timing/detector.py: torchvision's Faster R-CNN R50-FPN. Needs torch and torchvision only."""

import argparse
import json
import statistics
import time

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

HW = (800, 1344)
OBJECTS = 8


def main() -> None:
    """Prints seconds per call and memory as json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=("train", "detect"))
    parser.add_argument("--batch", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--mode", choices=("eager", "compile"))
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = FasterRCNN(
        backbone, 81, min_size=HW[0], max_size=HW[1], rpn_pre_nms_top_n_train=2000, rpn_pre_nms_top_n_test=1000,
        rpn_post_nms_top_n_train=1000, rpn_post_nms_top_n_test=1000,
    )  # fmt: skip
    model = model.to(device, memory_format=torch.channels_last).train(args.what == "train")
    run = torch.compile(model) if args.mode == "compile" else model
    images = [torch.rand(3, *HW, device=device) for _ in range(args.batch)]
    corner = torch.rand(args.batch, OBJECTS, 2) * torch.tensor([HW[1], HW[0]]) * 0.6
    side = 40 + 260 * torch.rand(args.batch, OBJECTS, 2)
    boxes = torch.cat([corner, torch.minimum(corner + side, torch.tensor([HW[1], HW[0]]))], -1).to(device)
    labels = torch.randint(1, 81, (args.batch, OBJECTS), device=device)
    targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
    trained = [p for p in model.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(trained, lr=1e-5, momentum=0.9, weight_decay=1e-4)

    def call() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            if args.what == "detect":
                with torch.inference_mode():
                    run(images)
            else:
                loss = torch.stack(list(run(images, targets).values())).sum()
                sgd.zero_grad(set_to_none=True)
                loss.backward()
                sgd.step()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3 if device == "cuda" else 1):  # algorithms are chosen and programs compiled here
        call()
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 2.0 and len(seconds) < 50):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    gb = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else None
    print(json.dumps({"seconds": statistics.median(seconds), "gb": gb, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
