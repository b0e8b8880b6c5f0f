"""How a coordinator joins a Ray cluster, or starts one on its machine."""

import logging
import os
import signal
import socket
from typing import Any

import ray

from lowrung.engine import cores
from lowrung.errors import EngineError, first_line

CONNECT_SECONDS = 10.0
"""How long the head of a cluster may take to answer."""

_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""A frame of HTTP/2: no length, its kind (the fourth byte), no flags, of no stream."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS


def join(address: str | None) -> bool:
    """Joins a cluster, or starts one; returns whether it ends with the engine.

    Raises:
        EngineError: when the cluster does not answer.
    """
    if ray.is_initialized():
        return False
    before = signal.getsignal(signal.SIGTERM)  # Ray takes it for itself
    where = "a cluster on this machine" if address is None else f"hydra.launcher.address={address}"
    try:
        _require_a_head(address)
        with cores.environment({"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}):
            ray.init(
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(_here() if address is None else {"address": address}),
            )
    except Exception as error:  # a node that takes too long to start is no more to Ray than an Exception
        raise EngineError(
            f"Ray must answer, but {where} does not ({first_line(error)}). `ray status` on one of its nodes shows"
            f" its state.{_token_remedy(address)}"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    return True


def _token_remedy(address: str | None) -> str:
    """Of a token `ray start` makes use by itself where there is one, and who joins by an address does not."""
    if address is None or "RAY_AUTH_MODE" in os.environ:
        return ""
    return " Where it was started with a token (~/.ray/auth_token), set RAY_AUTH_MODE=token in the environment."


def _here() -> dict[str, Any]:
    """A cluster of this machine alone; see `hydra_plugins.lowrung.ray_launcher` for its address."""
    return {
        "address": "local",
        "num_cpus": cores.usable_cores(),
        "include_dashboard": False,
    }


def _require_a_head(address: str | None) -> None:
    """Ray itself would ask an address for minutes at which nothing listens, or something else.

    A cluster's head speaks HTTP/2: it begins with its settings, once it has the client's.

    Raises:
        OSError: when there is none.
    """
    host, _, port = (address or "").rpartition(":")
    if not host:
        return
    with socket.create_connection((host, int(port)), CONNECT_SECONDS) as link:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            link.sendall(_PREFACE)
            if link.recv(len(_SETTINGS))[3:4] != _SETTINGS[3:4]:
                raise OSError("what listens there is no Ray")
