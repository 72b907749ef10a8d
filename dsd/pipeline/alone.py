"""What stands in a pipeline's own file (`dsd.pipeline.standalone`) in place of functions that need this package."""

from pathlib import Path

from dsd.models.families import Family
from dsd.models.families.flux1 import FAMILY as FLUX1
from dsd.models.families.flux2 import FAMILY as FLUX2
from dsd.models.families.z_image import FAMILY as Z_IMAGE


def family_named(name: str) -> Family:
    """Give a family by its name. All are here: diffusers may run the files of two pipelines as one module."""
    families: tuple[Family, ...] = (FLUX1, FLUX2, Z_IMAGE)
    return next(family for family in families if family.name == name)


def source_of(name: str) -> str:
    """Read this file, which is saved beside the pipeline again."""
    return Path(__file__).read_text(encoding="utf-8")
