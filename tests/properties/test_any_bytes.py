"""Whatever bytes come from outside, the answer is a value or one line: never a traceback, never a wrong result.

Hypothesis makes the bytes. `HYPOTHESIS_EXAMPLES=2000 pytest tests/properties` looks longer.
"""

import json
import os
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dsd.errors import UserError
from dsd.infer.output import free_name
from dsd.io.pictures import FORMATS, read_picture
from dsd.models.adapter_file import read_adapter
from dsd.pipeline.jobs import JobList, content_of, jsonl_jobs
from dsd.runs.identity import read_config
from dsd.runs.manifest import read_manifest
from dsd.runs.redaction import redact
from dsd.runs.settings import leaves

often = settings(
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", 60)),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """The value, or None where the answer is one line."""
    try:
        return function(*arguments)
    except UserError:
        return None


def pictures() -> st.SearchStrategy[bytes]:
    """Whole files of many kinds, and the same with bytes changed or cut off."""

    def encode(kind: str, mode: str, size: tuple[int, int]) -> bytes:
        buffer = BytesIO()
        try:
            Image.new(mode, size).save(buffer, kind)
        except (OSError, ValueError, KeyError):
            Image.new("RGB", size).save(buffer, "PNG")
        return buffer.getvalue()

    kinds = st.sampled_from(("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "DDS", "PPM", "ICO", "EPS"))
    modes = st.sampled_from(("RGB", "RGBA", "L", "P", "1", "LA", "CMYK", "I;16", "I", "F"))
    whole = st.builds(encode, kinds, modes, st.tuples(st.integers(1, 40), st.integers(1, 40)))

    def damage(data: bytes, at: int, with_: bytes, cut: bool) -> bytes:
        at %= len(data)
        return data[:at] + with_ + (b"" if cut else data[at + len(with_) :])

    return whole | st.builds(damage, whole, st.integers(0, 10_000), st.binary(max_size=12), st.booleans())


@often
@given(st.binary(max_size=200) | pictures())
def test_any_bytes_are_a_picture_or_one_line(data: bytes) -> None:
    picture = answer(read_picture, data, "reference")
    assert picture is None or (picture.mode == "RGB" and min(picture.size) >= 1)


@often
@given(st.binary(max_size=300) | st.lists(values, max_size=3).map(lambda v: "\n".join(map(json.dumps, v)).encode()))
def test_any_bytes_are_jobs_or_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "jobs.jsonl").write_bytes(data)
    jobs = answer(jsonl_jobs, str(tmp_path / "jobs.jsonl"))
    assert jobs is None or all(job.prompt.strip() for job in jobs.jobs)


@often
@given(st.text(min_size=1).filter(str.strip), st.integers(0, 2**63 - 1))
def test_jobs_are_read_as_they_were_written(tmp_path: Path, prompt: str, seed: int) -> None:
    """Also line separators of Unicode, which Python's splitlines takes for line ends."""
    (tmp_path / "jobs.jsonl").write_text(
        json.dumps({"reference": "a.png", "prompt": prompt, "seed": seed}, ensure_ascii=False), encoding="utf-8"
    )
    (job,) = jsonl_jobs(str(tmp_path / "jobs.jsonl")).jobs
    assert (job.prompt, job.seed) == (prompt, seed)
    assert JobList([job], [content_of(job)]).fingerprint == JobList([job], [content_of(job)]).fingerprint


@often
@given(st.binary(max_size=300) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_manifest_or_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(data)
    assert answer(read_manifest, tmp_path, "train") is None


@often
@given(st.binary(max_size=300) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_a_config_or_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(data)
    found = answer(read_config, tmp_path / "config.yaml")
    assert found is None or isinstance(found, dict)


@often
@given(st.binary(max_size=300) | values.map(lambda v: json.dumps(v).encode()), values)
def test_any_bytes_are_no_adapter(tmp_path: Path, body: bytes, metadata: Any) -> None:
    header = body if len(body) % 2 else json.dumps({"__metadata__": {"base": json.dumps(metadata)}}).encode()
    (tmp_path / "adapter.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert answer(read_adapter, tmp_path) is None


@often
@given(st.lists(st.text(max_size=300), max_size=12))
def test_every_job_has_a_file_of_its_own(names: list[str]) -> None:
    taken: set[str] = set()
    files = [free_name(name, taken) for name in names]
    assert len({file.lower() for file in files}) == len(files)
    assert all(file and "/" not in file and len(file) <= 110 for file in files)


@often
@given(st.text(min_size=8, alphabet=st.characters(whitelist_categories=("L", "N"))), st.text(), st.text())
def test_a_key_in_the_environment_is_redacted_anywhere(secret: str, before: str, after: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DSD_TEST_API_KEY", secret)
        assert secret not in redact(before + secret + after).replace("<redacted>", "")


@often
@given(st.dictionaries(st.text(alphabet="abc", min_size=1, max_size=3), values, max_size=3))
def test_leaves_keep_every_value(config: dict[str, Any]) -> None:
    def value_at(key: str) -> Any:
        inner: Any = config
        for part in key.split("."):
            inner = inner[part]
        return inner

    if all("." not in str(key) and str(key) for key in keys_in(config)):  # a dot divides the keys of leaves
        for key, value in leaves(config).items():
            assert value is (value_at(key) if key else config)
            assert not isinstance(value, dict) or not value


def keys_in(value: Any) -> list[Any]:
    """Every key of every mapping below, those inside lists aside."""
    return [k for key, inner in value.items() for k in (key, *keys_in(inner))] if isinstance(value, dict) else []


def test_formats_start_no_program() -> None:
    assert not {"EPS", "PDF", "WMF"} & set(FORMATS)
