"""W&B's package and its service process: whether it is used, how its server is asked, how it is ended.

Nothing here knows of a run.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trainer.config import Wandb
from trainer.errors import BanyanError, ConfigError

if TYPE_CHECKING:
    from wandb.sdk.lib.wbauth import Auth

STOP_TIMEOUT_S = 1.0  # the longest wait for W&B's service process beyond what it was asked to take
ENVIRONMENT_MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


class WandbError(BanyanError):
    """W&B couldn't be reached, or refused."""


def choose_mode(settings: Wandb, *, say: Callable[[str], None] = lambda line: None) -> str:
    """online, offline or disabled. `auto` obeys WANDB_MODE, else is online with a key and offline, saying so, without.

    Online without a key is a ConfigError.
    """
    wanted, named_by = settings.mode, "track.wandb.mode"
    if wanted == "auto" and (named := os.environ.get("WANDB_MODE", "").lower()):
        if named not in ENVIRONMENT_MODES:
            raise ConfigError(f"WANDB_MODE={named}: not known; set it to online, offline or disabled.")
        wanted, named_by = ENVIRONMENT_MODES[named], "WANDB_MODE"
    if wanted in ("offline", "disabled"):
        return wanted
    problem = _key_problem()
    if problem is None:
        return "online"
    if wanted == "online":
        raise ConfigError(
            f"{named_by}=online: {problem}. Set WANDB_API_KEY or run `wandb login`, or set track.wandb.mode=offline."
        )
    say(f"W&B: {problem}, so the run is recorded offline; `banyan sync` uploads it once there is one.")
    return "offline"


def asked_mode(settings: Wandb) -> str | None:
    """online, offline, or None where nobody asked for W&B: a run must be recorded somewhere, other things needn't."""
    said: list[str] = []
    mode = choose_mode(settings, say=said.append)
    asked = settings.mode != "auto" or bool(os.environ.get("WANDB_MODE"))
    return None if mode == "disabled" or (mode == "offline" and not asked) else mode


def _key_problem() -> str | None:
    import_wandb()
    from wandb.errors import AuthenticationError

    try:
        return None if find_credentials() else "no key found"
    except AuthenticationError as error:
        return in_a_line(error)


def import_wandb() -> ModuleType:
    """The wandb package, set up to print nothing and to send no reports about itself.

    With those reports on, wandb 0.31 asks the server at exit whether it wants them, offline as well, and a server that
    never answers holds up the process by 10 s.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    try:
        wandb.setup(wandb.Settings(silent=True))
    except Exception as error:
        raise ConfigError(f"W&B's own settings: {in_a_line(error)}. Check the WANDB_* variables.") from error
    return wandb


def ask_server(query: str, variables: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
    """What the server answers to a GraphQL query.

    It goes through W&B's service, which knows proxies, certificates and credentials, and raises whatever that raises
    when there is no answer within `timeout_s`.
    """
    wandb = import_wandb()
    from wandb.apis.public.service_api import ServiceApi
    from wandb.sdk.lib.wbauth.settings import set_auth_settings

    settings = wandb.setup().settings.model_copy()
    settings.x_graphql_retry_max = 1
    set_auth_settings(settings, find_credentials())
    answer: dict[str, Any] = ServiceApi(settings).execute_graphql(query, variables, timeout=max(0.1, timeout_s))
    return answer


def find_credentials() -> Auth | None:
    """W&B's own look-up for the server in use: WANDB_API_KEY, an identity token, netrc, settings. Asks nobody."""
    host = import_wandb().setup().settings.base_url
    from wandb.sdk.lib.wbauth import authenticate_session

    return authenticate_session(host=host, source="banyan", prompt=False, update_session=False)


def stop_service() -> None:
    """Ends W&B's service process, politely for a moment, then by force.

    It may be dead already (then a traceback of its would end ours), and one that still waits for a server never ends.
    """
    with contextlib.suppress(Exception, SystemExit):
        within(STOP_TIMEOUT_S, import_wandb().teardown)
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name().startswith("wandb-core"):
                child.kill()


def within(timeout_s: float, work: Callable[[], object]) -> None:
    """Runs `work` in a thread of its own: a TimeoutError if that takes too long, or whatever it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="banyan-wandb", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {timeout_s:g} s")
    if raised:
        raise raised[0]


def in_a_line(reason: object) -> str:
    """What went wrong, short, without a full stop."""
    text = " ".join(str(reason).split()).partition(" while retrying")[0] or type(reason).__name__
    return text[:300].rstrip(".")
