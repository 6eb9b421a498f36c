"""Lint rules for the optimizer, its arguments, the learning rates and the schedule of one training."""

from collections.abc import Callable, Iterator, Mapping

from orchestrator.errors import Problem, error, warning
from orchestrator.kohya import networks, optimizers, signatures
from orchestrator.kohya.arguments import key_values, ranges, schedulers
from orchestrator.kohya.arguments.key_values import block_weights
from orchestrator.kohya.optimizers import Optimizer, optimizer_of
from orchestrator.model import Params, Value

DEFAULT_RATE = 2e-6
"""sd-scripts' default learning_rate: meant for full fine-tuning, far too low for a LoRA."""


def lint(params: Params) -> Iterator[Problem]:
    """The problems of this training; none while the optimizer's name is wrong, because all depend on it."""
    if optimizers.name_issues(str(params.get("optimizer_type") or "")):
        return
    for rule in (_arguments, _rate_is_given, _rate_suits_optimizer, _one_rate, _own_rate, _text_encoder_rates):
        yield from rule(params)
    yield from schedulers.lint(params, ignored=_schedule_is_ignored(params))


# --- optimizer_args ---------------------------------------------------------------------------------------------------


def _arguments(params: Params) -> Iterator[Problem]:
    optimizer, given = optimizer_of(params), key_values.literals(params, "optimizer_args")
    signature = optimizers.signature_of(optimizer)
    for name in ("lr", "params"):
        if name in given:
            what = f"sd-scripts passes {name} to {optimizer.name} itself, and fails at a second one"
            yield error("optimizer_args", what, "remove it, and set learning_rate")
    rest = {name: value for name, value in given.items() if name not in ("lr", "params")}
    if signature is not None:
        for what, remedy in signatures.issues(optimizer.name, signature, rest, "optimizers"):
            yield error("optimizer_args", what, remedy)
    for name, value in rest.items():
        for what, remedy in ranges.literal_issues("optimizer_args", name, value):
            yield error("optimizer_args", what, remedy)
    for conflicts, what, remedy in _CONFLICTS:
        if conflicts(optimizer, rest):
            yield error("optimizer_args", f"{optimizer.name} {what}", remedy)


_CONFLICTS: tuple[tuple[Callable[[Optimizer, Mapping[str, object]], bool], str, str], ...] = (
    (
        lambda one, args: one.name.startswith("SGDNesterov") and "nesterov" in args,
        "always uses nesterov, and fails at a second value",
        "remove nesterov",
    ),
    (
        lambda one, args: (
            bool(one.name.startswith("SGDNesterov") or (one.name == "SGD" and args.get("nesterov")))
            and bool(args.get("dampening") or not args.get("momentum", one.name != "SGD"))
        ),
        "with nesterov needs a momentum above 0 and no dampening",
        'write "momentum=0.9", without dampening',
    ),
    (
        lambda one, args: one.name == "SGDScheduleFree" and args.get("momentum") == 0,
        "needs a momentum above 0",
        "remove momentum",
    ),
    (lambda one, args: one.adaptive and args.get("eps") == 0, "needs an eps above 0", "remove eps"),
    (lambda _, args: args.get("differentiable", False) is not False, "cannot be differentiable here", "remove it"),
    (
        lambda one, args: "bitsandbytes" in one.packages and args.get("optim_bits", 32) not in (8, 32),
        "has states of 8 or 32 bits",
        'write "optim_bits=32"',
    ),
    (
        lambda one, args: "bitsandbytes" in one.packages and one.name.endswith("8bit") and bool(args.get("amsgrad")),
        "does not support amsgrad",
        "remove amsgrad",
    ),
    (
        lambda one, args: "bitsandbytes" in one.packages and "Adam" in one.name and one.name.endswith("8bit")
        and args.get("optim_bits", 32) != 32,
        "has 8-bit state whatever optim_bits says, and accepts 32 only",
        "remove optim_bits",
    ),
    (lambda _, args: bool(args.get("foreach") and args.get("fused")), "is either fused or foreach", "remove foreach"),
    (
        lambda one, args: one.name == "Adafactor"
        and bool(args.get("warmup_init") and not args.get("relative_step", True)),
        "with warmup_init uses relative_step=True, whatever is written",
        'write "warmup_init=False"',
    ),
)  # fmt: skip
"""When an optimizer fails, or ignores an argument: the condition, the reason and the remedy."""


# --- rates ------------------------------------------------------------------------------------------------------------


def _number(params: Params, key: str, default: float) -> float:
    value = params.get(key, default)
    return value if isinstance(value, int | float) else default


def _rates(params: Params) -> dict[str, float]:
    """The learning rates in effect, by the argument that sets each; learning_rate stands for those not set."""
    general = _number(params, "learning_rate", DEFAULT_RATE)
    trained = {"unet_lr": "network_train_text_encoder_only", "text_encoder_lr": "network_train_unet_only"}
    found: dict[str, float] = {}
    for key, without in trained.items():
        given = _first(params.get(key))
        if not params.get(without):
            found[key if given is not None else "learning_rate"] = given if given is not None else general
    return found


def _first(value: Value | None) -> float | None:
    first = value[0] if isinstance(value, tuple) and value else value
    return first if isinstance(first, int | float) else None


def _rate_is_given(params: Params) -> Iterator[Problem]:
    if "learning_rate" not in params and "learning_rate" in _rates(params):
        optimizer = optimizer_of(params).name
        what = f"no learning_rate for {optimizer}: sd-scripts uses {DEFAULT_RATE:g}, which is too low for a LoRA"
        yield error("learning_rate", what, "set learning_rate (1e-4 for AdamW8bit, 1.0 for Prodigy)")
    elif (rates := _rates(params)) and not any(rates.values()) and not sets_own_rate(params):
        key = next((key for key in rates if key in params), "learning_rate")
        yield error(key, "every learning rate is 0: nothing is trained", f"set {key} to a rate above 0")


def _rate_suits_optimizer(params: Params) -> Iterator[Problem]:
    if sets_own_rate(params):
        return
    optimizer, rates = optimizer_of(params), _rates(params)
    if optimizer.one_rate and len(set(rates.values()) - {0}) > 1:
        return  # reported by `_one_rate`
    for key, rate in rates.items():
        if key not in params:
            continue
        if optimizer.adaptive and 0 < rate <= 0.1:
            what = f"{optimizer.name} estimates its own step size and expects 1.0; at {rate:g} it hardly learns"
            yield error(key, what, f"set {key} = 1.0 where optimizer_type is {optimizer.name}")
        elif not optimizer.adaptive and not optimizer.name.startswith("SGD") and rate >= 0.1:
            what = f"{rate:g} is too high for {optimizer.name}: training diverges"
            yield error(key, what, f"set {key} = 1e-4 where optimizer_type is {optimizer.name}")


def _one_rate(params: Params) -> Iterator[Problem]:
    """Prodigy and D-Adaptation fail at the first step unless all rates that are not 0 are equal."""
    optimizer, rates = optimizer_of(params), _rates(params)
    if not optimizer.one_rate:
        return
    remedy = "remove unet_lr and text_encoder_lr: learning_rate is for all parts"
    if len({rate for rate in rates.values() if rate}) > 1:
        listed = ", ".join(f"{key} = {rate:g}" for key, rate in rates.items())
        key = next(key for key in ("unet_lr", "text_encoder_lr", "learning_rate") if key in params)
        yield error(key, f"{optimizer.name} accepts one learning rate, not {listed}", remedy)
    elif "unet_lr" in params:
        what = f"{optimizer.name} accepts one learning rate: unet_lr must equal the others"
        yield warning("unet_lr", what, remedy)
    if any(name.startswith("loraplus_") for name in key_values.pairs(params, "network_args")):
        what = f"LoRA+ sets a second learning rate, and {optimizer.name} accepts one"
        yield error("network_args", what, "remove the loraplus ratios, or use AdamW8bit")
    if {weight for weight in block_weights(params) or [] if weight} - {1.0}:
        what = f"block weights set several learning rates, and {optimizer.name} accepts one"
        yield error("network_args", what, "use the weights 0 and 1 only, or use AdamW8bit")


def sets_own_rate(params: Params) -> bool:
    """Whether Adafactor sets the rate itself, which is its default."""
    if optimizer_of(params).name != "Adafactor":
        return False
    arguments = key_values.literals(params, "optimizer_args")
    return bool(arguments.get("relative_step", True) or arguments.get("warmup_init", False))


def _own_rate(params: Params) -> Iterator[Problem]:
    if not sets_own_rate(params):
        return
    remedy = 'set optimizer_args = ["relative_step=False", "scale_parameter=False", "warmup_init=False"]'
    for key in (
        "unet_lr",
        "text_encoder_lr",
        "lr_scheduler",
        "lr_scheduler_type",
        "lr_scheduler_args",
        "lr_warmup_steps",
    ):
        if params.get(key) and params[key] != "adafactor":
            what = f"Adafactor sets its own rate (relative_step): {key} has no effect, or training fails"
            yield error(key, what, f"remove {key}, or {remedy}")
    if block_weights(params) or any(key.startswith("loraplus_") for key in key_values.pairs(params, "network_args")):
        what = "Adafactor sets its own rate (relative_step), so block weights and LoRA+ ratios have no effect"
        yield error("network_args", what, f"remove them, or {remedy}")


def _schedule_is_ignored(params: Params) -> str:
    """The optimizer that makes sd-scripts ignore the schedule; empty if it is used, or if `_own_rate` reports it."""
    optimizer = optimizer_of(params)
    return optimizer.name if optimizer.schedule_free else "Adafactor" if sets_own_rate(params) else ""


def _text_encoder_rates(params: Params) -> Iterator[Problem]:
    several = params.get("text_encoder_lr")
    module = networks.module_of(params)
    used = 2 if module in (networks.LOHA, networks.LOKR) else 1
    if isinstance(several, tuple) and len(several) > used and len(set(several)) > 1:
        which = "one for each text encoder" if used > 1 else "the first one, for both text encoders"
        what = f"{module} uses {which}, and ignores the other rates"
        yield error("text_encoder_lr", what, "give one number" if used == 1 else "give two numbers")
    trained = {"text_encoder_lr": "network_train_unet_only", "unet_lr": "network_train_text_encoder_only"}
    for rate, only in trained.items():
        if params.get(only) and rate in params:
            yield warning(rate, f"{only} is set, so {rate} has no effect", "remove one of the two")
    if not params.get("network_train_unet_only") and _first(several) == 0:
        what = "at rate 0 the text encoders' LoRA is still computed, and saved as zeros"
        yield warning("text_encoder_lr", what, "use network_train_unet_only = true")
    if params.get("unet_lr") == 0 and not params.get("network_train_text_encoder_only"):
        what = "at rate 0 the U-Net's LoRA is still computed, and saved as zeros"
        yield warning("unet_lr", what, "use network_train_text_encoder_only = true")
