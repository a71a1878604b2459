"""Draws docs/images/photographs.png: photographs of scikit-image and scikit-learn, by the step they left at.

python bench/pictured.py [MODEL] [-o PICTURE]
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

import gfnet_fast as gf
from gfnet_fast.figure import draw_exits
from gfnet_fast.files import replacing
from gfnet_fast.sources import preprocess

# By their names there, and the part of each that is shown: (left, top, width).
PHOTOGRAPHS = {
    "coffee": (120, 20, 280),
    "page": (60, 0, 140),
    "coins": (10, 10, 200),
    "brick": (0, 0, 380),
    "chelsea": (90, 0, 220),
    "rocket": (240, 0, 300),
    "astronaut": (60, 0, 380),
    "china.jpg": (180, 0, 320),
    "flower.jpg": (120, 0, 320),
    "hubble_deep_field": (0, 0, 600),
}


def photograph(name: str, ratio: float) -> Image.Image:
    """That part of it, `ratio` times as high as wide."""
    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)()
    left, top, width = PHOTOGRAPHS[name]
    image = Image.fromarray(np.asarray(pixels)).convert("RGB")
    return image.crop((left, top, left + width, min(image.height, top + round(width * ratio))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="waste")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/images/photographs.png"))
    options = parser.parse_args()
    predictor = gf.Predictor.from_pretrained(options.model, device="cpu")
    config = predictor.model.config
    height, width = config.canvas
    crops = [photograph(name, height / width) for name in PHOTOGRAPHS]
    images = torch.stack([preprocess(image, config) for image in crops])
    picture = draw_exits(
        images,
        predictor.predict_batch(images),
        predictor.thresholds,
        names=predictor.model.labels,
        patch_size=config.patch_size,
        macs=config.macs,
    )
    with replacing(options.output) as file:
        picture.save(file, "PNG", optimize=True)


if __name__ == "__main__":
    main()
