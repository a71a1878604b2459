"""The recipe of the model that comes with the package: cluttered digits in half an hour on two cores.

``python -m gfnet_fast.training.digits --output FOLDER`` trains it anew. What a pretrained backbone is to
photographs, windows that hold the digit are here: stage 0 first teaches one encoder to read them, and
both encoders start from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from gfnet_fast.config import GFNetConfig
from gfnet_fast.data.digits import ClutteredDigits, DigitsTask

from gfnet_fast.model.gfnet import GFNet, crop_patches
from gfnet_fast.training.config import TrainConfig
from gfnet_fast.training.evaluate import step_logits
from gfnet_fast.training.stages import train_classifier, train_encoder, train_policy

TASK = DigitsTask(canvas=192, sizes=(14.0, 72.0))
