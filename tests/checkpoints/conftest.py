"""A released configuration that is small: what is checked of official files depends on no size."""

import pytest

from gfnet_fast.config import GFNetConfig


@pytest.fixture(scope="module")
def small():
    """In the place of all released configurations, with three classes: files of 4 MB, not of 30."""
    config = GFNetConfig(
        "mobilenetv3_large_100", "timm/mobilenetv3_small_050", 96, 3, 224, classifier="cascaded",
        classifier_width=16, policy_width=16, policy_hidden=8, macs=(10**7, 2 * 10**7, 3 * 10**7),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for module in ("config", "checkpoints.official"):
            patch.setattr(f"gfnet_fast.{module}.RELEASED", (config,))
        yield config.replace(classes=3)
