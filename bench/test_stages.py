"""What each stage of a request costs in processor time.

python -m pip install --group bench     once, in an environment of its own
python -m pytest -o addopts= --benchmark-columns=min,median,rounds bench/test_stages.py
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import stages


@pytest.mark.parametrize(("stage", "size"), list(stages.cases("")))
@pytest.mark.benchmark(timer=time.process_time, min_time=0.005, max_time=1.0, warmup=True, disable_gc=False)
def test_stage(stage: str, size: str, benchmark: Any) -> None:
    """One stage, with a body of one size."""
    benchmark(stages.stages(stages.SIZES[size])[stage])
