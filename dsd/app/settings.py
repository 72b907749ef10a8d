"""The settings of dsd-app: configs/app.yaml."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import DictConfig

from dsd.errors import UserError
from dsd.infer.settings import WeightSettings, check_sizes, check_speed, check_weights
from dsd.io.files import refuse_unwritable
from dsd.runs.settings import check, check_path, setting

AUTH = "DSD_APP_AUTH"  # environment variable: user:password


@dataclass
class AppSettings(WeightSettings):
    """Draw in a web page, with a model that stays loaded."""

    examples: ClassVar[tuple[str, ...]] = (
        "dsd-app adapter=outputs/demo/train",
        "dsd-app model=flux_dev adapter=outputs/paper/train quantization=int8 offload=model",
        "DSD_APP_AUTH=user:password dsd-app host=0.0.0.0 port=8080",
    )
    closing: ClassVar[str] = "Ctrl-C ends the server; pictures stay in output_dir. --cfg job prints the whole config."

    output_dir: str = setting("drawn pictures are kept here, as PNG with their settings")
    device: str = setting("auto, cpu, cuda or cuda:N", "auto")
    host: str = setting("address to listen on; others than this machine's own need DSD_APP_AUTH=user:password")
    port: int = setting("the page is at http://HOST:PORT; 0 takes a free port", least=0, most=65535)
    share: bool = setting("also a public address by Gradio's relay; needs DSD_APP_AUTH=user:password")
    runs: str = setting("folder that is searched for finished adapters, grids and pairs")
    styles: str | None = setting("folder that is searched for style LoRAs; null: none", None)
    warm_models: int = setting("models that stay loaded, one for each adapter and choice of styles", least=1)
    preview_every: int = setting("steps between previews; 0: none", least=0)
    most_pictures: int = setting("pictures of one request", least=1, most=100)
    most_side: int = setting("pixels of an output's longer side", least=16, most=16384)
    most_megapixels: float = setting("of an uploaded picture", above=0)
    most_megabytes: int = setting("of an uploaded file", least=1)
    jobs: Any = setting("references with prompts to try; ~jobs: none", None, group=True)

    @staticmethod
    def check(cfg: DictConfig) -> None:
        """Refuse settings that do not go together, and a page that anybody could open without a password."""
        check_sizes(cfg)
        check_speed(cfg)
        check_weights(cfg)
        if cfg.transformer is not None:
            check_path("transformer", cfg.transformer, "folder")
        if cfg.lora_weights is not None:
            check_path("lora_weights", cfg.lora_weights, "file")
        if cfg.styles is not None:
            check_path("styles", cfg.styles, "folder")
        refuse_unwritable(f"{cfg.output_dir}/picture.png")
        if password() is None and (cfg.share or not is_loopback(cfg.host)):
            what = "share=true" if cfg.share else f"host={cfg.host}"
            raise UserError(f"{what} lets others in: set {AUTH}=user:password in the environment")


def password() -> tuple[str, str] | None:
    """Read user and password from the environment. UserError where they are not user:password."""
    given = os.environ.get(AUTH)
    if not given:
        return None
    user, _, word = given.partition(":")
    if not user or not word:
        raise UserError(f"{AUTH} is not of the form user:password")
    return user, word


def is_loopback(host: str) -> bool:
    """Tell whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def compose(*overrides: str) -> DictConfig:
    """Compose and check the settings from Python, as the command does from its arguments."""
    from hydra import compose, initialize_config_dir
    from hydra.core.config_store import ConfigStore

    from dsd.runs.command import CONFIG_DIR

    ConfigStore.instance().store("app_schema", AppSettings)
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        cfg = compose("app", overrides=list(overrides))
    check(cfg, AppSettings)
    return cfg
