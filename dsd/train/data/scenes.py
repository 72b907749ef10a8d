"""Scenes under several lights, as MIT Multi-Illumination is unpacked: pairs of two lights of one scene.

`<scene>/dir_<number>_mip<level>.jpg`, 25 directions of a flash; level 2 is 1,500 x 1,000 pixels (`impath`, `imshape` of
multilum.py, lmurmann/multi_illumination@11674f6; projects.csail.mit.edu/illumination). Other files and folders beside
them (`probes/`, `materials_mip2.png`, `thumb.jpg`) are ignored.
"""

import re
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import torch
import yaml
from pydantic import Field, TypeAdapter, ValidationError

from dsd.errors import UserError
from dsd.flow import generator_at
from dsd.io.inputs import first_problem, read_text, regular_file
from dsd.train.data.folders import contents_of
from dsd.train.data.made import LightMix
from dsd.train.data.sources import Picture, RawPair, Unread, digest, read_or_reason

NAME = re.compile(r"dir_(\d{1,4})_mip(\d)\.jpg")
LEAST_SHARE, MOST_SHARE = 0.25, 0.75  # of the second light of a mix: both can be seen
Words = TypeAdapter(dict[int, Annotated[str, Field(min_length=1, max_length=1000)]])


class Scenes:
    """Every light of a scene is the target `references` times, each time of another light of the same scene.

    `lights` is a YAML file of light numbers and words; by default the 18 directions of the flash that light the scene
    by way of walls. Where the pictures are linear (`linear`), a share `mix` of the targets shows two lights at once.
    Which lights meet follows from the seed and the position. UserError where there is no such scene.
    """

    def __init__(
        self,
        path: str | Path,
        mip: int = 2,
        lights: str | None = None,
        references: int = 1,
        linear: bool = False,
        mix: float = 0.5,
        seed: int = 0,
    ) -> None:
        if not 0 <= mix <= 1:
            raise UserError(f"data.scenes.mix={mix}: a share from 0 to 1 is needed")
        self.words, self.references = words_of(lights), references
        self.mix, self.seed = mix if linear else 0.0, seed
        scenes = {folder.name: pictures_of(folder, mip, set(self.words)) for folder in scene_folders(Path(path))}
        self.scenes = {name: pictures for name, pictures in sorted(scenes.items()) if pictures}
        if not self.scenes:
            raise UserError(
                f"data.path={path}: no <scene>/dir_<number>_mip{mip}.jpg of a light that has words; another size: "
                "data.scenes.mip=, other lights: data.scenes.lights="
            )
        self.targets = [(name, light) for name, pictures in self.scenes.items() for light in pictures]
        contents = contents_of([file for pictures in self.scenes.values() for file in pictures.values()])
        told = [[name, [[k, contents[file]] for k, file in found.items()]] for name, found in self.scenes.items()]
        self.fingerprint = digest(told, sorted(self.words.items()), references, self.mix, seed)

    def __len__(self) -> int:
        return self.references * len(self.targets)

    def block(self, positions: range) -> Iterator[RawPair | Unread]:
        for position in positions:
            yield read_or_reason(partial(self._pair, position))

    def _pair(self, position: int) -> RawPair:
        name, light = self.targets[position // self.references]
        pictures = self.scenes[name]
        others = [k for k in pictures if k != light]
        if not others:
            raise UserError(f"scene {name}: one light alone, a pair needs two")
        generator = generator_at(self.seed, position)
        order = [others[k] for k in torch.randperm(len(others), generator=generator).tolist()]
        mixed, share = torch.rand(2, generator=generator).tolist()
        reference, target = (Picture(regular_file(pictures[k]).read_bytes()) for k in (order[0], light))
        caption = self.words[light]
        if mixed < self.mix and len(order) > 1:
            other = Picture(regular_file(pictures[order[1]]).read_bytes())
            share = LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * share
            target = LightMix(target.data, other=other, share=share)
            caption = f"{caption}, and {self.words[order[1]]}"
        return RawPair(reference, target, caption, caption)


def scene_folders(path: Path) -> list[Path]:
    """List the folders of scenes, hidden ones left out."""
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]


def pictures_of(folder: Path, mip: int, lights: set[int]) -> dict[int, Path]:
    """Find a scene's pictures of one size by the number of their light."""
    found = ((NAME.fullmatch(file.name), file) for file in folder.iterdir())
    pictures = {int(match[1]): file for match, file in found if match and int(match[2]) == mip}
    return {light: pictures[light] for light in sorted(pictures) if light in lights}


def holds_scenes(path: Path) -> bool:
    """Tell whether a folder holds scenes under several lights, of any size."""
    return any(NAME.fullmatch(file.name) for folder in scene_folders(path) for file in folder.iterdir())


def words_of(lights: str | None) -> dict[int, str]:
    """Read the words of lights by number. UserError where the file is no such table."""
    if lights is None:
        text = (files("dsd.train.data") / "flash_directions.yaml").read_text(encoding="utf-8")
    else:
        text = read_text(lights, "data.scenes.lights")
    try:
        return Words.validate_python(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        reason = first_problem(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise UserError(
            f"data.scenes.lights={lights}: not a table of light numbers and words ({reason}); "
            'write lines such as "0: light from the left"'
        ) from error
