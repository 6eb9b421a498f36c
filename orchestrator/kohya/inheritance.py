"""What a point inherits from the settings: their arguments and the table of its optimizer, as far as they fit.

Later words win: [arguments], [optimizers.NAME], the grid. An argument of the grid replaces its rivals in the settings:
arguments that sd-scripts rejects or ignores beside it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from orchestrator.config.schema import Settings
from orchestrator.kohya.arguments import key_values
from orchestrator.kohya.optimizers import Optimizer, optimizer_of
from orchestrator.model import Params

RATES = ("learning_rate", "unet_lr", "text_encoder_lr")
OF_OPTIMIZER = (*RATES, "optimizer_args")
"""Arguments that suit one optimizer only: another optimizer does not inherit them from [arguments]."""

_ADAM: Params = {"learning_rate": 1e-4, "optimizer_args": ("weight_decay=0.01",)}
_LION: Params = {"learning_rate": 3e-5, "optimizer_args": ("weight_decay=0.1",)}
_ADAPTIVE: Params = {"learning_rate": 1.0, "optimizer_args": ("weight_decay=0.01",)}
_PRODIGY = ("decouple=True", "weight_decay=0.01", "use_bias_correction=True", "safeguard_warmup=True")
_FIXED_STEP = ("relative_step=False", "scale_parameter=False", "warmup_init=False")


def _shared(names: str, table: Params) -> dict[str, Params]:
    return dict.fromkeys(names.split(), table)


TABLES: Mapping[str, Params] = {
    "Prodigy": {"learning_rate": 1.0, "optimizer_args": _PRODIGY},
    **_shared("AdamW AdamW8bit PagedAdamW PagedAdamW8bit PagedAdamW32bit", _ADAM),
    **_shared("Adam NAdam RAdam Adamax", {"learning_rate": 1e-4, "optimizer_args": ()}),
    **_shared("Lion Lion8bit PagedLion8bit", _LION),
    "Adafactor": {"learning_rate": 1e-4, "optimizer_args": _FIXED_STEP},
    **_shared("AdamWScheduleFree RAdamScheduleFree", {**_ADAM, "learning_rate": 2.5e-4}),
    "SGDScheduleFree": {"learning_rate": 0.1, "optimizer_args": ()},
    "ProdigyPlusScheduleFree": _ADAPTIVE,
    **_shared("DAdaptation DAdaptAdamPreprint DAdaptAdaGrad DAdaptAdam DAdaptAdan", _ADAPTIVE),
    **_shared("DAdaptAdanIP DAdaptLion DAdaptSGD", _ADAPTIVE),
}
"""The tables of settings that have none for an optimizer."""

_GROUPS = (
    ("max_train_steps", "max_train_epochs"),
    ("lr_scheduler", "lr_scheduler_type"),
    ("sdpa", "xformers", "mem_eff_attn"),
    ("optimizer_type", "use_8bit_adam", "use_lion_optimizer"),
    ("full_bf16", "full_fp16"),
    ("network_train_unet_only", "network_train_text_encoder_only"),
    ("save_every_n_epochs", "save_n_epoch_ratio"),
    ("sample_every_n_steps", "sample_every_n_epochs"),
    ("v_parameterization", "v_pred_like_loss"),
    ("lowram", "highvram"),
)
"""Arguments of which sd-scripts uses or accepts one. Source: library.args and train_network of v0.11.1."""

_PAIRS = (
    (("cache_latents", "cache_latents_to_disk"), ("color_aug", "random_crop")),
    (
        ("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"),
        (
            "shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step",
            "network_train_text_encoder_only",
        ),
    ),
)  # fmt: skip
"""Sets of arguments that sd-scripts rejects together: any of one with any of the other."""

_ONE_WAY = {
    "network_train_unet_only": ("text_encoder_lr",),
    "network_train_text_encoder_only": ("unet_lr",),
    "enable_bucket": ("face_crop_aug_range",),
}
"""What an argument leaves without effect."""

_SCHEDULE = (
    "lr_scheduler", "lr_scheduler_type", "lr_scheduler_args", "lr_warmup_steps", "lr_decay_steps",
    "lr_scheduler_num_cycles", "lr_scheduler_power", "lr_scheduler_min_lr_ratio", "lr_scheduler_timescale",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Arguments that a point has from the settings. replaced: those it has not, with what replaces each."""

    params: Params
    replaced: Mapping[str, str]


class Inheritance:
    """Computes what points inherit; `unset` are keys that no point inherits."""

    def __init__(self, settings: Settings, unset: tuple[str, ...] = ()) -> None:
        self._arguments = {key: value for key, value in settings.arguments.items() if key not in unset}
        self._tables = settings.optimizers
        self._unset = unset
        self._optimizer = optimizer_of(settings.arguments)
        self._named = _names_optimizer(settings.arguments)
        self._known: dict[tuple[object, ...], Inherited] = {}

    def params(self, asked: Params) -> Params:
        """What a point inherits whose grid sets `asked`; the same object for all points that inherit the same."""
        return self.of(asked).params

    @property
    def replaced(self) -> dict[str, tuple[str, ...]]:
        """What the points so far set -> the arguments of the settings that it replaces."""
        found: dict[str, dict[str, None]] = {}
        for one in self._known.values():
            for key, cause in one.replaced.items():
                found.setdefault(cause, {})[key] = None
        return {cause: tuple(keys) for cause, keys in found.items()}

    def of(self, asked: Params) -> Inherited:
        """What a point inherits, and what it does not because of the grid."""
        identity = (*asked, *[repr(asked[key]) for key in _DECIDING if key in asked])
        if identity not in self._known:
            self._known[identity] = self._inherited(asked)
        return self._known[identity]

    def _inherited(self, asked: Params) -> Inherited:
        replaced: dict[str, str] = {}
        params = dict(self._arguments)
        optimizer = optimizer_of({**params, **asked} if not _names_optimizer(asked) else asked)
        named = self._named or _names_optimizer(asked)
        if named and _names_optimizer(asked) and optimizer != self._optimizer:
            replaced |= {key: f'optimizer_type = "{optimizer.name}"' for key in OF_OPTIMIZER if key in params}
        params = {key: value for key, value in params.items() if key not in replaced}
        table = self._table(optimizer, params) if named else {}
        for layer in (table, asked):
            causes = {rival: key for key, rival in _rivals(layer, optimizer_of({**params, **layer}))}
            gone = {key: cause for key, cause in causes.items() if key in params and key not in layer}
            replaced |= gone
            params = {key: value for key, value in params.items() if key not in gone}
            params |= table if layer is table else {}
        params = {key: value for key, value in params.items() if key not in self._unset}
        return Inherited(params=params, replaced={key: why for key, why in replaced.items() if key in self._arguments})

    def _table(self, optimizer: Optimizer, params: Params) -> Params:
        """The table of an optimizer. The built-in one is for settings that say nothing about it."""
        if (own := table_of(optimizer.name, self._tables)) is not None:
            return own
        return {} if params.keys() & set(OF_OPTIMIZER) else table_of(optimizer.name, TABLES) or {}


def table_of(name: str, tables: Mapping[str, Params]) -> Params | None:
    """The table of an optimizer by its class name in any case; None without one."""
    folded = {known.rpartition(".")[2].casefold(): table for known, table in tables.items()}
    return folded.get(name.rpartition(".")[2].casefold())


def for_optimizer(name: str, settings_tables: Mapping[str, Params], current: Params) -> Params:
    """What a training changes besides optimizer_type when it goes on with another optimizer than it had."""
    table = table_of(name, {**TABLES, **settings_tables}) or {}
    rates = {key: table["learning_rate"] for key in RATES if key in current and "learning_rate" in table}
    return {"optimizer_args": (), **rates, **table}


def _names_optimizer(params: Params) -> bool:
    return any(params.get(key) for key in ("optimizer_type", "use_8bit_adam", "use_lion_optimizer"))


def _rivals(layer: Params, optimizer: Optimizer) -> Iterator[tuple[str, str]]:
    """Pairs of a key of this layer and a key that it replaces."""
    for key, value in layer.items():
        if value in (False, "", (), None) or (value == 0 and not isinstance(value, bool)):
            continue
        yield from ((key, rival) for rival in _by_key().get(key, ()) if rival != key)
        if key == "mixed_precision":
            yield from ((key, rival) for rival in ("full_bf16", "full_fp16") if rival != f"full_{value}")
        if key in ("lr_scheduler", "lr_scheduler_type"):
            yield key, "lr_scheduler_args"
            if value == "constant" or key == "lr_scheduler_type":
                yield key, "lr_warmup_steps"
            if value != "warmup_stable_decay":
                yield key, "lr_decay_steps"
    if optimizer.schedule_free and _names_optimizer(layer):
        yield from (("optimizer_type", key) for key in _SCHEDULE)
    if optimizer.name == "Adafactor" and key_values.literals(layer, "optimizer_args").get("relative_step"):
        yield from (
            ("optimizer_args", key) for key in ("lr_scheduler", "lr_warmup_steps", "unet_lr", "text_encoder_lr")
        )


@lru_cache
def _by_key() -> Mapping[str, tuple[str, ...]]:
    """The rivals of each argument that has some."""
    found: dict[str, tuple[str, ...]] = dict(_ONE_WAY)
    for group in _GROUPS:
        found |= {key: (*found.get(key, ()), *group) for key in group}
    for one, other in _PAIRS:
        found |= {key: (*found.get(key, ()), *other) for key in one}
        found |= {key: (*found.get(key, ()), *one) for key in other}
    return found


_DECIDING = (*_by_key(), *OF_OPTIMIZER, "mixed_precision")
