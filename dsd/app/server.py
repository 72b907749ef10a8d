"""Serve the page."""

import logging
import signal
import socket
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dsd.app.settings import is_loopback, password
from dsd.errors import UserError

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> None:
    """Serve the page until Ctrl-C."""
    try:
        from dsd.app.page import build
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("gradio"):
            raise
        raise UserError("dsd-app needs gradio: pip install 'diffusion-self-distillation[app]'") from error
    from dsd.app.engine import Engine

    engine = Engine(cfg)
    page, address = launch(build(engine), cfg)
    log.info("app: open %s; pictures go to %s; Ctrl-C ends", address, engine.folder)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        page.block_thread()  # until Ctrl-C
    finally:
        signal.signal(signal.SIGTERM, previous)
        page.close(verbose=False)


def launch(page: Any, cfg: DictConfig) -> tuple[Any, str]:
    """Start the server in a thread; return the page and its address. UserError where the port is taken."""
    from dsd.app.look import CSS, HEAD, theme

    port = free_port(cfg.host, cfg.port)
    folder = Path(cfg.output_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _, local, public = page.launch(
        server_name=cfg.host, server_port=port, share=cfg.share, auth=password(),
        max_file_size=f"{cfg.most_megabytes}mb", allowed_paths=[str(folder / "pictures"), str(folder / "sheets")],
        app_kwargs={"middleware": hosts_of(cfg)}, theme=theme(), css=CSS, head=HEAD, prevent_thread_lock=True,
        quiet=True, ssr_mode=False, show_error=False, footer_links=["api", "settings"], mcp_server=False, pwa=False,
        run_history=False, inbrowser=False,
    )  # fmt: skip
    return page, (public if cfg.share and public else local).rstrip("/")


def hosts_of(cfg: DictConfig) -> list[Any]:
    """Answer to this machine's own names alone, where no other machine is let in: a foreign page may rename itself."""
    if cfg.share or not is_loopback(cfg.host):
        return []
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return [Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]", cfg.host])]


def free_port(host: str, port: int) -> int:
    """Check that a port is free, or find one for 0. UserError where it is taken, or where the host is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        raise UserError(
            f"host={host} port={port}: {error.strerror}; choose another, or port=0 for a free one"
        ) from error
