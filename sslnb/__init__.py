"""Five papers on self-supervised learning, as notebooks and a library. The names that a notebook of one's own needs first are here.
Each is imported from its module when it is first used, so that `import sslnb` takes no time. The modules themselves are
here, too: `sslnb.evaluate.evaluate` is the linear evaluation of an encoder.

Written by hand, but for the version, which nbdev takes from settings.ini."""
import importlib, pkgutil

__version__ = "0.1.0"

_WHERE = {  # name -> its module; none is the name of a module, too
    "load": "data", "Images": "data", "DataError": "data", "SettingError": "core",
    "METHODS": "methods", "TrainConfig": "train", "pretrain": "train", "load_encoder": "train", "load_classifier": "train",
    "ENCODERS": "models", "encoder": "models", "pretrained": "models", "wrap": "models", "features": "models",
    "linear_probe": "evaluate", "knn": "evaluate", "fine_tune": "evaluate", "evaluate_classifier": "evaluate",
    "panel": "judge", "fgsm": "attacks", "pgd": "attacks", "under_attack": "attacks"}
_MODULES = {m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")}

__all__ = ["__version__", *_WHERE]


def __getattr__(name: str):
    if name in _WHERE: return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    if name in _MODULES: return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"sslnb has no {name!r}; it has: {', '.join(__dir__())}")


def __dir__() -> list[str]: return sorted({*__all__, *_MODULES})
