"""orchestrate: hyperparameter sweeps over kohya sd-scripts. `orchestrator.session` is the library's entry."""

__version__ = "0.2.0"
