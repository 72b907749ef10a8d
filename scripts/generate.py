"""Draw one picture with the released script's command line, word for word.

    python scripts/generate.py --model_path DIR/transformer --lora_path DIR/pytorch_lora_weights.safetensors \
        --image_path reference.png --text "this robot, at the beach" --output_path robot.png

`--model_path` is the released transformer's folder. Beyond the released flags: `--base_path` (folder or hub id that
supplies VAE, text encoders, tokenizers and scheduler), `--seed`, `--device`, `--dtype`, `--size`. `dsd-infer` does all
this and more.
"""

import argparse
import secrets
import sys
from pathlib import Path
from typing import Any

from dsd.errors import UserError
from dsd.runs.command import CONFIG_DIR, quiet

DTYPES = ("float32", "bfloat16", "float16")


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
    parser.add_argument(
        "--disable_gemini_prompt", action="store_true", help="use --text as it is; otherwise Gemini enriches it"
    )
    parser.add_argument("--base_path", default="black-forest-labs/FLUX.1-dev")
    parser.add_argument("--seed", type=int, help="default: another one each time, which is printed")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", choices=DTYPES, help="default: bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--size", type=int, default=512, help="height and width of the picture, in pixels")
    return parser.parse_args()


def enhanced(reference: Any, prompt: str) -> str:
    """Let Gemini enrich the prompt where the environment has a key or a project for it; else keep the prompt."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from dsd.chat import gemini
    from dsd.chat.limits import Limits
    from dsd.chat.service import Service
    from dsd.infer.enhance import Enhancer

    if not gemini.has_credentials():
        print(f"prompt enhancement is off: neither {gemini.KEYS[0]} nor {gemini.PROJECT} is in the environment")
        return prompt
    configs = Path(CONFIG_DIR)
    vlm = OmegaConf.load(configs / "vlm/gemini.yaml")
    service = Service(instantiate(vlm.chat), "outputs/cache/answers.sqlite", Limits(**vlm.limits))
    return Enhancer(service, **OmegaConf.load(configs / "infer.yaml").enhance)(reference, prompt)


def draw(arguments: argparse.Namespace) -> None:
    """Draw and save the picture. The libraries are imported here, so that a bad flag is answered at once."""
    import torch

    from dsd.io.pictures import picture_format, read_picture, save_picture
    from dsd.models.loading import to_device
    from dsd.pipeline.offload import place, refuse_without_gpu
    from dsd.pipeline.pipeline import DSDPipeline

    picture_format(arguments.output_path)
    reference, device = read_picture(arguments.image_path), to_device(arguments.device)
    offload = "sequential" if arguments.sequential_offload else "model" if arguments.model_offload else "none"
    refuse_without_gpu(offload, "none", device)
    pipeline = DSDPipeline.from_base(
        arguments.base_path,
        transformer=arguments.model_path,
        lora=arguments.lora_path,
        dtype=arguments.dtype or ("float32" if device.type == "cpu" else "bfloat16"),
    )
    pipeline.precompute = True
    place(pipeline, device, offload)
    prompt = arguments.text if arguments.disable_gemini_prompt else enhanced(reference, arguments.text)
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    (picture,) = pipeline(
        prompt,
        reference,
        height=arguments.size,
        width=arguments.size,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        image_guidance_scale=arguments.i_guidance,
        text_guidance_scale=arguments.t_guidance,
        generator=torch.Generator("cpu").manual_seed(seed),
    )[0]
    settings = {name: getattr(arguments, name) for name in ("guidance", "i_guidance", "t_guidance", "steps")}
    save_picture(picture, arguments.output_path, prompt, seed, settings)
    print(f"{arguments.output_path} ({picture.width} x {picture.height}, seed {seed})")


def main() -> None:
    arguments = parse()
    if not arguments.text.strip():
        raise UserError("--text is empty; say what to draw")
    draw(arguments)


if __name__ == "__main__":
    quiet()
    try:
        main()
    except Exception as error:
        from dsd.runs.messages import explain

        line = explain(error)
        if line is None:
            raise
        sys.exit(f"generate.py: error: {line}")
