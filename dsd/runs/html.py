"""Write a self-contained page from a template."""

from pathlib import Path
from typing import Any

from dsd.io.files import atomic


def write_page(path: Path, template: Path, **values: Any) -> None:
    """Fill a Jinja template with values and write it; functions among the values can be called in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template(template.name).render(**values)
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
