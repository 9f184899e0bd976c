"""The built-in rewards: every function below this folder that `@reward` names."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType

from harness.rewards.registry import BuiltInReward, registered

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

REWARDS: Mapping[str, BuiltInReward] = MappingProxyType(registered())
"""Built-in rewards by the name that recipes use."""
