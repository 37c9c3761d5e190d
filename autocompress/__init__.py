"""From a trained CNN to a smaller, ordinary PyTorch model, by one command.

The names of ``__all__`` are imported when they are first used, so that ``import autocompress``
loads neither torch nor Ray, Optuna or pandas.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "AutoCompressError": "autocompress.errors",
    "Candidate": "autocompress.jobs",
    "ModelSettings": "autocompress.zoo.make",
    "Settings": "autocompress.search.spec",
    "TaskSettings": "autocompress.evaluate.task",
    "export_onnx": "autocompress.store.export",
    "export_torch": "autocompress.store.export",
    "find_front": "autocompress.pareto",
    "load": "autocompress.store.load",
    "open_study": "autocompress.search.study",
    "open_task": "autocompress.evaluate.task",
    "optimize": "autocompress.deploy.optimize",
    "pack": "autocompress.store.pack.model",
    "pareto_frame": "autocompress.report.frames",
    "read_settings": "autocompress.settings",
    "run_search": "autocompress.search.controller",
    "sensitivity_frame": "autocompress.report.sensitivity",
    "trace_graph": "autocompress.graph.trace",
    "trials_frame": "autocompress.report.frames",
    "unpack": "autocompress.store.pack.model",
}

__all__ = [
    "AutoCompressError",
    "Candidate",
    "ModelSettings",
    "Settings",
    "TaskSettings",
    "__version__",
    "export_onnx",
    "export_torch",
    "find_front",
    "load",
    "open_study",
    "open_task",
    "optimize",
    "pack",
    "pareto_frame",
    "read_settings",
    "run_search",
    "sensitivity_frame",
    "trace_graph",
    "trials_frame",
    "unpack",
]


def __getattr__(name: str) -> object:
    """Return a public object, importing its module now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
