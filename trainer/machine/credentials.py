"""Secrets that must not be written down: known by their place in a URL, or as the value of an environment variable."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from trainer.errors import ConfigError

SHORTEST = 8  # characters of a value that is searched for in text: a shorter one would be found by chance
_NAME = re.compile(
    r"SECRET|PASSW|CREDENTIAL|TOKEN(?!IZ|S)|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|(^|_)(KEY|PASS|PAT)(_|\d|$)", re.I
)
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*)://(?P<secret>[^\s/?#'\"]*)@", re.I)
_QUERY = re.compile(
    r"[?&;](?P<name>X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)|AWSAccessKeyId|Signature"
    r"|sig|token|access_token|auth|api_?key|key|secret|password)=(?P<secret>[^\s&;#'\"]+)",
    re.I,
)
_LOGIN_ONLY = ("ssh", "sftp", "hdfs")  # user@ names an account there, which is no secret
_INSTEAD = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "hf": "HF_TOKEN",
}
_interpolated: dict[str, str] = {}


def remember(name: str, value: str) -> None:
    """Notes what `${oc.env:NAME}` stood for, for `masked`."""
    if len(value) >= SHORTEST:
        _interpolated[value] = name


def is_secret(variable: str) -> bool:
    """Whether an environment variable holds a secret, by its name."""
    return _NAME.search(variable) is not None


def check_no_secret(key: str, text: str) -> None:
    """Refuses text that holds the value of a variable which is a secret."""
    for name, value in _secrets():
        if value in text:
            raise ConfigError(
                f"{key}: holds the value of {name}, which would be stored; leave it out: libraries read it from the "
                "environment."
            )


def check_url(key: str, text: str) -> None:
    """Refuses credentials in a URL."""
    if "://" not in text:
        return
    for match in _USER.finditer(text):
        scheme, secret = match["scheme"].lower(), match["secret"]
        if secret and (":" in secret or scheme not in _LOGIN_ONLY):
            raise ConfigError(f"{key}: {scheme}://…@… holds credentials, which would be stored; {_mend(scheme)}.")
    if found := _QUERY.search(text):
        scheme = re.split(r"[^a-z0-9+.-]", text.partition("://")[0].lower())[-1]
        raise ConfigError(f"{key}: {found['name']}=… in a URL is a credential, and would be stored; {_mend(scheme)}.")


def masked(text: str) -> str:
    """Text for people and logs, without what is a secret in URLs or came from the environment."""
    text = _USER.sub(lambda match: f"{match['scheme']}://***@", text)
    text = _QUERY.sub(lambda match: match[0].removesuffix(match["secret"]) + "***", text)
    for name, value in _secrets():
        text = text.replace(value, f"${{{name}}}")
    for value in sorted(_interpolated, key=len, reverse=True):
        text = text.replace(value, f"${{oc.env:{_interpolated[value]}}}")
    return text


def _secrets() -> Iterator[tuple[str, str]]:
    """Variables that hold secrets; not those that name a file."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and is_secret(name) and not value.isdigit() and not os.path.exists(value):
            yield name, value


def _mend(scheme: str) -> str:
    variables = _INSTEAD.get(scheme)
    if variables is None:
        return "fetch the file first, and name it here"
    return f"leave them out and set {variables} in the environment"
