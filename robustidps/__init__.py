"""RobustIDPS keeps intrusion-detection models fresh and safe in production.

The library underneath the flows: traffic and its splits, model families, bundles, evaluation, drift, the registry
with its signed ledger, and the promotion rules. Nothing here imports Prefect, and nothing heavy is imported
before it is used.

    from robustidps import ModelRegistry, ModelMetadata
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["ModelMetadata", "ModelRegistry", "__version__"]

if TYPE_CHECKING:
    from robustidps.registry.metadata import ModelMetadata
    from robustidps.registry.registry import ModelRegistry

_PUBLIC = {
    "ModelMetadata": "robustidps.registry.metadata",
    "ModelRegistry": "robustidps.registry.registry",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'robustidps' has no attribute {name!r}")
