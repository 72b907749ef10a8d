"""dsd-publish: an adapter, pairs, or drawn pictures."""

from omegaconf import DictConfig

from dsd.errors import UserError


def run(cfg: DictConfig) -> None:
    """Publish what the config names."""
    from huggingface_hub import get_token

    if cfg.local is None and get_token() is None:
        raise UserError(
            f"repo={cfg.repo}: no token; set HF_TOKEN to one that may write (https://huggingface.co/settings/tokens)"
        )
    if cfg.adapter is not None:
        from dsd.publish import adapters

        adapters.run(cfg)
    elif cfg.results is not None:
        from dsd.publish import results

        results.run(cfg)
    else:
        from dsd.publish import pairs

        pairs.run(cfg)
