"""The pairwise judge by a real Qwen2.5-VL at tiny size: P(yes) of the first token."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_vlm import save_tiny_vlm

from dsd.errors import UserError
from dsd.metrics.judges.pairwise import PairwiseConsistency
from dsd.metrics.measure import Drawing

WORDING = "Are both consistent? Yes or No."


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> PairwiseConsistency:
    folder = tmp_path_factory.mktemp("vlm")
    save_tiny_vlm(folder)
    return PairwiseConsistency(str(folder), WORDING, dtype="float32", device="cpu")


def test_the_score_is_the_probability_of_yes_against_no(judge: PairwiseConsistency) -> None:
    red, blue = Image.new("RGB", (56, 56), "red"), Image.new("RGB", (56, 56), "blue")
    content = [{"type": "image", "image": image} for image in (red, blue)] + [{"type": "text", "text": WORDING}]
    inputs = judge.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    made = judge.network.generate(
        **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    yes, no = (judge.processor.tokenizer.convert_tokens_to_ids(letter) for letter in "YN")
    expected = torch.sigmoid(made.logits[0][0, yes] - made.logits[0][0, no])
    first, several = judge([Drawing(blue, red, ""), Drawing(blue, red, "", others=(blue,))])
    assert first["consistency"] == pytest.approx(float(expected), abs=1e-5)
    assert several["consistency"] == pytest.approx((first["consistency"] + judge.probability(blue, blue)) / 2)


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"measure\.consistency\.model=.*: cannot be loaded"):
        PairwiseConsistency(str(tmp_path / "none"), WORDING)
