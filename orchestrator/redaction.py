"""Removes secrets from texts before they are recorded, and from the environment of child processes."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import translate
from functools import lru_cache
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus, unquote

from orchestrator.text import invisible

_NAME = re.compile(
    r"KEY(?!BOARD|MAP)|TOKEN|SECRET|CREDENTIAL|AUTH(?!ORS?($|_))|COOKIE|DSN|PASS(?!IVE|THR)|BEARER|JWT|SIGNATURE|WEBHOOK|_PWD$|(^|_)PATS?($|_)"
    r"|(DATABASE|DB|REDIS|MONGO\w*|POSTGRES\w*|MYSQL|AMQP|BROKER)_?UR[IL]|CONNECTION_?STRING",
    re.IGNORECASE,
)
"""Names of variables whose values are secrets."""

_SHORTEST = 6
"""Shorter values are no secrets: they would be found in ordinary words."""

COMMON_VALUES = """
enabled disabled default required optional localhost offline online anonymous password unknown undefined automatic
""".split()  # noqa: SIM905
"""Values of settings such as AUTH_MODE, which are no secrets."""

_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
    r"|[\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)
"""Colours, other terminal codes, control characters but tab and line ends, direction marks, invisible spaces."""

_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:\"']*):([^/@\s\"']+)@")
_ADDRESS = re.compile(r"(?<=//)[^/@\s\"']+@")
_DISTINCT = """
ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- glptt- glrt- gldt- glft- glcbt- glimt- gloas- glsoat- glagent- glffct- glsa_
sk-proj- sk-ant- sk-svcacct- sk-admin- sk-or- sk-lf- sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_ whsec_ pypi-
wandb_v1_ tgp_v1_ pcsk_ csb_v1_ dop_v1_ doo_v1_ dor_v1_ dckr_pat_ dckr_oat_ dp.pt. dp.st. dp.ct. dp.sa. dt0c01. AIza
GOCSPX- ya29. xoxa- xoxb- xoxc- xoxe- xoxe. xoxo- xoxp- xoxr- xoxs- xapp- hvs. hvb. hvr. sntrys_ sntryu_ rubygems_
tskey- sha256~ shpat_ shpca_ shppa_ shpss_ pscale_tkn_ pscale_oauth_ pscale_pw_ PMAK- ATATT3 ATCTT3 HRKU-AA CFPAT- NRAK-
xkeysib- sq0atp- sq0csp- fm1r_ fm1a_ fm2_ fo1_ AGE-SECRET-KEY- ops_eyJ FLWSECK_TEST- duffel_live_ duffel_test_ nfp_
figd_ LTAI api_org_ sm_pat_ sm_aat_ sm_sat_ shippo_live_ shippo_test_
""".split()  # noqa: SIM905
"""Beginnings of tokens; most are from the rules of gitleaks. Any letters, digits and separators follow."""

_COMMON = """
hf_ npm_ gsk_ r8_ fw_ rpa_ pnu_ ntn_ lin_api_ rdme_ sk- xai- pplx- pul- ico- glc_ key- ABSK AKCp cmVmd EAACE EAAG EZAK
EZTK
""".split()  # noqa: SIM905
"""The same, but words begin like this, too: many letters and digits have to follow."""


def _any_of(words: Iterable[str]) -> str:
    return "|".join(map(re.escape, words))


_KNOWN = (
    (
        ("PRIVATE", "LS0tLS1CRUdJTi"),
        re.compile(
            r"-----BEGIN[\w %+-]*PRIVATE(?:[ +]|%20)KEY[\w %+-]*-----.*?(?:-----END[\w %+-]*-----|\Z)"
            r"|LS0tLS1CRUdJTi[\w+/=-]{20,}",  # base64
            re.DOTALL,
        ),
    ),
    (_DISTINCT, re.compile(rf"(?<![A-Za-z0-9])(?:{_any_of(_DISTINCT)})[\w.~+/-]{{10,}}=*")),
    (_COMMON, re.compile(rf"(?<![A-Za-z0-9])(?:{_any_of(_COMMON)})[A-Za-z0-9]{{20,}}=*")),
    (("AKIA", "ASIA", "ABIA", "ACCA"), re.compile(r"(?<![A-Za-z0-9])A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}\b")),
    (
        ("eyJ",),
        re.compile(r"(?<![A-Za-z0-9])eyJ[\w-]{8,}(?:\.eyJ[\w-]{8,}\.[\w-]*|[\w+/-]{50,}=*)"),
    ),  # JWT, base64 of JSON
    (("SG.", "dapi"), re.compile(r"(?<![A-Za-z0-9])(?:SG\.[\w-]{16,}\.[\w-]{16,}|dapi[a-f0-9]{32})")),
    ((":A",), re.compile(r"(?<![A-Za-z0-9])\d{6,12}:A[\w-]{34}(?![\w-])|(?<=/bot)\d+:A[\w-]+")),  # Telegram
    ((".",), re.compile(r"[MNO](?<![\w-][MNO])[A-Za-z\d_-]{23,25}\.[\w-]{6}\.[\w-]{27,38}(?![\w-])")),  # Discord
    (
        ("https://",),
        re.compile(
            r"https://(?:hooks\.slack\.com/\w+|(?:\w+\.)?discord(?:app)?\.com/api/webhooks|[\w.]+\.webhook\.office\.com"
            r"|maker\.ifttt\.com/\w+|hooks\.zapier\.com/hooks)/[^\s\"']+"
        ),
    ),
    (("://",), re.compile(r"(?<=://)[^/@\s:\"']{16,}(?=@)")),
)
"""Formats of well-known secrets, each after strings of which one is in every match."""

_HEADER = re.compile(r"(?i)(?:(?<=authorization: )|(?<=cookie: )(?=[\w.-]+=))[^\r\n\"']+|(?<=bearer )[\w.~+/=-]{8,}")

_HEADER_HINTS = ("authorization: ", "cookie: ", "bearer ")

_NAMED_HINTS = ("pass", "key", "token", "secret", "signature", "sig=")
_NAMED = re.compile(
    r"""(?i)((?:(?:pass(?:word|wd|phrase)|(?:api|access|account|secret)[_-]?key|token|secret|signature)["']?\s*[=:]\s*"""
    r"""|[?&](?:sig|key)=|--\w*(?:_key|token|password|secret)["']?,?\s+)["']?)(?!\[)"""
    r"""(?:(?<=")[^"\r\n]+|(?<=')[^'\r\n]+|[^\s&"',;)\]}]+)"""
)
"""A name, as in `token=...`, `"api_key": "..."`, `?sig=...` and `--wandb_api_key ...`, and its value."""

_INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TMP", "TEMP", "TERM"),
    *("PYTHON*", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_*", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"),
    *("CUDA*", "CUDNN*", "CUBLAS*", "NVIDIA_*", "NCCL_*", "HIP_*", "HSA_*", "ROC*", "TORCH*", "PYTORCH_*", "TRITON_*"),
    *("OMP_*", "MKL_*", "KMP_*", "GOMP_*", "OPENBLAS_*", "NUMEXPR_*", "MALLOC_*", "ORT_*", "TF_*", "TOKENIZERS_*"),
    *(
        "HF_*",
        "HUGGINGFACE_*",
        "HUGGING_FACE_*",
        "TRANSFORMERS_*",
        "DIFFUSERS_*",
        "ACCELERATE_*",
        "XFORMERS_*",
        "BNB_*",
    ),
    *("STANDIN_*", "TORTURE_*"),  # of this project's tests
    *("WANDB_*", "SSL_CERT_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "*_proxy", "*_PROXY", "WSL*", "ORCHESTRATE_*"),
)
"""Variables that programs need, with wildcards."""

_ALSO = "ORCHESTRATE_PASS_ENV"
"""A variable with further names, separated by spaces or commas, with wildcards."""


def child_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that child processes inherit: those that programs need, and those in ORCHESTRATE_PASS_ENV."""
    inherited = _matching((*_INHERITED, *environ.get(_ALSO, "").replace(",", " ").split()))
    return {name: value for name, value in environ.items() if inherited.match(name)}


@lru_cache(maxsize=8)
def _matching(patterns: tuple[str, ...]) -> "re.Pattern[str]":
    """What matches any of the patterns with wildcards; one expression, because each start of a program uses it."""
    return re.compile("|".join(map(translate, patterns)))


def hide(name: str, value: str) -> str:
    """The value of a variable as it may be recorded: `[HF_TOKEN]` for a secret, an address without its password."""
    return f"[{name}]" if _NAME.search(name) else _replace_known(_ADDRESS.sub("[hidden]@", value))


def redact(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text without control codes and secrets.

    The values of variables such as HF_TOKEN, and passwords in addresses, become `[HF_TOKEN]`, the longest first; what
    has the format of a well-known secret becomes `[hidden]`.
    """
    text = _CONTROLS.sub("", text)
    names, values = _values(tuple(environ.items()))
    return _replace_known(values.sub(lambda match: f"[{names[match[0]]}]", text) if values else text)


def unfit(text: str, environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """What is wrong with a text that records and LoRA files contain as it is written, and the remedy; empty if nothing.

    It may have neither invisible characters nor secrets.
    """
    if code := invisible(text):
        return f"contains the invisible character {code}", "remove it; write a Windows path in single quotes"
    if found := find_secret(text, environ):
        remedy = (
            f"remove it; programs get secrets from the environment (HF_TOKEN, WANDB_API_KEY, or name it in {_ALSO}); "
            "if it is no secret, unset the variable"
        )
        return f"contains {found}, and would be recorded", remedy
    return "", ""


def find_secret(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """What secret a text contains, without the secret; empty if none.

    It has a known format, or is the value of a variable, unless this could be ordinary words and numbers.
    """
    names, values = _values(tuple(environ.items()))
    for match in values.finditer(text) if values else ():
        around = text[max(match.start() - 1, 0) : match.start()] + text[match.end() : match.end() + 1]
        if _is_random(match[0]) and not re.search(r"\w", around):
            return f"the value of {names[match[0]]}"
    known = any(_RANDOM.search(match[0]) for _, pattern in _KNOWN for match in pattern.finditer(text))
    return "a token, key or password" if known or _URL_PASSWORD.search(text) else ""


def _is_random(secret: str) -> bool:
    return len(secret) >= 8 and bool(re.search(r"\d", secret) and re.search(r"[A-Za-z]", secret))


_RANDOM = re.compile(r"PRIVATE.KEY|[A-Za-z0-9]{30}|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16}")
"""What names and dates do not have: 16 letters and digits in a row, or 30 letters."""


def redact_strings(value: Any, skip: Collection[str] = ()) -> Any:
    """A value of JSON without secrets in its strings, except those under the keys of `skip`. Keys are not changed.

    A string without a secret is not changed at all.
    """
    return _redact_strings(value, skip) if _is_secret("\n".join(_strings(value, skip))) else value


def _redact_strings(value: Any, skip: Collection[str]) -> Any:
    if isinstance(value, str):
        return redact(value) if _is_secret(value) else value
    if isinstance(value, dict):
        return {key: item if key in skip else _redact_strings(item, skip) for key, item in value.items()}
    return [_redact_strings(item, skip) for item in value] if isinstance(value, list | tuple) else value


def _is_secret(text: str) -> bool:
    return redact(text) != _CONTROLS.sub("", text)


def _strings(value: Any, skip: Collection[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from () if key in skip else _strings(item, skip)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item, skip)


def _replace_known(text: str) -> str:
    if "@" in text:
        text = _URL_PASSWORD.sub(lambda match: f"{match[1]}:[hidden]@", text)
    for hints, pattern in _KNOWN:
        if any(hint in text for hint in hints):
            text = pattern.sub(_hidden, text)
    lower = text.lower()
    if any(hint in lower for hint in _HEADER_HINTS):
        text = _HEADER.sub(_hidden, text)
    return _NAMED.sub(r"\1[hidden]", text) if any(hint in lower for hint in _NAMED_HINTS) else text


def _hidden(match: "re.Match[str]") -> str:
    """A placeholder, unless it is one already."""
    return match[0] if match[0].startswith("[") else "[hidden]"


@lru_cache(maxsize=8)
def _values(environ: tuple[tuple[str, str], ...]) -> "tuple[dict[str, str], re.Pattern[str] | None]":
    """The name of the variable of each secret, and a pattern that finds the secrets, the longest first."""
    names: dict[str, str] = {}
    for name, value in environ:
        for secret in _secrets(name, value):
            if len(secret) >= _SHORTEST and secret.lower() not in COMMON_VALUES:
                for form in _forms(secret):
                    names.setdefault(form, name)
    longest_first = sorted(names, key=len, reverse=True)
    return names, re.compile("|".join(map(_whole_word, longest_first))) if names else None


def _whole_word(secret: str) -> str:
    """A pattern for the secret; one of few letters or digits is not searched for inside longer words and numbers."""
    is_plain = len(secret) < 12 and (secret.isalpha() or secret.isdigit())
    return rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9_])" if is_plain else re.escape(secret)


def _forms(secret: str) -> Iterator[str]:
    """The secret as it is, and as in addresses, Python, JSON, HTML, hex and base64."""
    raw = secret.encode("utf-8", "surrogateescape")
    quoted = {quote(secret, safe=""), quote(secret), quote_plus(secret)}
    yield from (secret, *quoted, *(re.sub(r"%..", lambda code: code[0].lower(), one) for one in quoted))
    yield from (repr(secret)[1:-1], ascii(secret)[1:-1], repr(raw)[2:-1], escape(secret), raw.hex())
    written = json.dumps(secret)[1:-1]
    yield from (written, json.dumps(written)[1:-1])
    for before in range(3):  # in the base64 of a longer text, without the characters that depend on its other bytes
        encoded = b64encode(bytes(before) + raw).decode()[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        yield from (encoded, encoded.translate(str.maketrans("+/", "-_"))) if len(encoded) >= 8 else ()


def _secrets(name: str, value: str) -> Iterator[str]:
    """The secrets in a variable: its value, each line of it, the password in an address, a token of a known format."""
    if _NAME.search(name) and not value.startswith("/"):  # SSH_AUTH_SOCK and XAUTHORITY are paths
        yield value
        yield from value.splitlines()
    for match in _URL_PASSWORD.finditer(value):
        yield match[2]
        yield unquote(match[2])
    for pattern in (*(pattern for _, pattern in _KNOWN), _HEADER):
        yield from (match[0] for match in pattern.finditer(value))
