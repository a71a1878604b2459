"""What `--help` of each command shows at its end, in the order in which `gfnet-fast --help` has them."""

EXAMPLES = {
    "predict": (
        "gfnet-fast predict photo.jpg --model waste",
        "gfnet-fast predict photos/ 'more/*.png' -m folder/ -f jsonl -o results.jsonl",
        "gfnet-fast predict photos/ --model gfnet.pth.tar --macs 8e8",
    ),
    "models": ("gfnet-fast models", "gfnet-fast models --format json"),
    "fetch": ("gfnet-fast fetch resnet50-96",),
    "info": ("gfnet-fast info waste", "gfnet-fast info gfnet.pth.tar"),
    "eval": (
        "gfnet-fast eval folder/ --data test/ --html page.html",
        "gfnet-fast eval digits --data digits --images 500 --format json",
    ),
    "calibrate": (
        "gfnet-fast calibrate folder/ --data held-out/",
        "gfnet-fast calibrate gfnet.pth.tar --data held-out/ --time --output new/",
    ),
    "quantize": ("gfnet-fast quantize folder/ --data held-out/ --output int8/",),
    "bench": (
        "gfnet-fast bench",
        "gfnet-fast bench folder/ --data test/ --csv rows.csv --html page.html",
    ),
    "report": ("gfnet-fast report run/ --output page.html", "gfnet-fast report rows.csv --output page.html"),
    "train": (
        "gfnet-fast train --data photos/ --output run/",
        "gfnet-fast train --data photos/ --backbone timm/resnet18 -o run/ --amp",
    ),
    "convert": (
        "gfnet-fast convert gfnet.pth.tar folder/",
        "gfnet-fast convert folder/ small/ --half",
        "gfnet-fast convert folder/ again.pth.tar --to released",
    ),
    "demo": ("gfnet-fast demo --output demo.png",),
}


def epilog(command: str) -> str | None:
    """A command's examples, between blank lines: releases of typer differ in what single breaks become."""
    return "\n\n".join(("Examples:", *EXAMPLES[command])) if command in EXAMPLES else None
