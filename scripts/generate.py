"""The released script's command line, word for word, on this pipeline.

    python scripts/generate.py --model_path DIR/transformer --lora_path DIR/pytorch_lora_weights.safetensors \
        --image_path reference.png --text "this robot, at the beach" --output_path robot.png

`--model_path` is the released transformer's folder. Beyond the released flags: `--base_path` (folder or hub id that
supplies VAE, text encoders, tokenizers and scheduler), `--seed`, `--device`, `--dtype`, `--size`. `dsd-infer` does all
this and more.
"""

import argparse
import sys
from pathlib import Path

import torch

from dsd.errors import UserError
from dsd.explain import explain
from dsd.infer.jobs import read_picture
from dsd.infer.pipeline import DSDPipeline
from dsd.manifest import atomic
from dsd.models.base import DTYPES, to_device


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="generate.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_path", required=True)
    parser.add_argument("--lora_path")
    parser.add_argument("--image_path", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--output_path", default="output.png")
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--i_guidance", type=float, default=1.0)
    parser.add_argument("--t_guidance", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--model_offload", action="store_true", help="one component on the GPU at a time")
    parser.add_argument("--sequential_offload", action="store_true", help="one layer on the GPU at a time")
    parser.add_argument("--disable_gemini_prompt", action="store_true", help="prompts are used as they are in any case")
    parser.add_argument("--base_path", default="black-forest-labs/FLUX.1-dev")
    parser.add_argument("--seed", type=int, help="default: another one each time, which is printed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--size", type=int, default=512, help="height and width of the picture, in pixels")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if not arguments.text.strip():
        raise UserError("--text is empty; say what to draw")
    reference, device = read_picture(arguments.image_path), to_device(arguments.device)
    offload = arguments.model_offload or arguments.sequential_offload
    if offload and device.type == "cpu":
        raise UserError("offloading needs a GPU; leave --model_offload and --sequential_offload out")
    pipeline = DSDPipeline.from_base(
        arguments.base_path,
        transformer=arguments.model_path,
        lora=arguments.lora_path,
        dtype=arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"),
        device="cpu" if offload else str(device),
    )
    if arguments.sequential_offload:
        pipeline.enable_sequential_cpu_offload(device=device)
    elif arguments.model_offload:
        pipeline.enable_model_cpu_offload(device=device)
    seed = torch.seed() % 2**32 if arguments.seed is None else arguments.seed
    (picture,) = pipeline(
        arguments.text,
        reference,
        height=arguments.size,
        width=arguments.size,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        image_guidance_scale=arguments.i_guidance,
        text_guidance_scale=arguments.t_guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
    ).images
    with atomic(Path(arguments.output_path)) as temporary:
        picture.save(temporary, Path(arguments.output_path).suffix.lstrip(".").upper().replace("JPG", "JPEG") or "PNG")
    print(f"{arguments.output_path} ({picture.width} x {picture.height}, seed {seed})")


if __name__ == "__main__":
    try:
        main()
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        sys.exit(f"generate.py: error: {line}")
