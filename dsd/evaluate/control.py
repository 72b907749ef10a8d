"""Write a judge's answers to the control pairs, for later evaluations to compare with.

dsd-evaluate mode=control vlm=openai vlm.chat.base_url=http://localhost:8000/v1 output_dir=outputs/control
"""

import logging
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dsd.chat.service import Service
from dsd.errors import UserError
from dsd.io.files import write_json
from dsd.metrics.judges.card import read_card
from dsd.metrics.judges.control import ask_control, control_pairs
from dsd.metrics.judges.measure import refuse_other_judge

log = logging.getLogger(__name__)
CONTROL = "control.json"


def write_control(cfg: DictConfig) -> None:
    """Ask every rubric of the card about every control pair. UserError where there are answers already."""
    card, file = read_card(OmegaConf.to_container(cfg.card, resolve=True)), Path(cfg.output_dir) / CONTROL
    if file.exists():
        raise UserError(f"{file}: there already; compare with it by control={file}, or choose another output_dir=")
    service = instantiate(cfg.vlm)
    if not isinstance(service, Service):
        raise UserError("mode=control asks a vision-language model: choose vlm=gemini, vlm=openai or vlm=local")
    refuse_other_judge(card, service)
    found = ask_control(card, service, card.rubrics)
    write_json(file, found.model_dump())
    log.info(
        "evaluate: %s answered %d questions about %d control pairs by judge card %s: %s",
        found.model, len(found.scores), len(control_pairs()), card.id, file,
    )  # fmt: skip
