"""The nodes. What they compute is in the files beside: `adapter`, `fit`, `guidance`, `prompt`."""

import comfy.latent_formats
import comfy.samplers
import comfy.utils
import folder_paths
import node_helpers
import torch
from PIL import Image

from .adapter import with_adapter
from .fit import FITS, canvas_of, fitted, panels_of
from .guidance import Scales, guided, is_plain
from .prompt import PROVIDERS, enhanced

CATEGORY = "DSD"
SIZE = {"min": 16, "max": 8192, "step": 16}


class DSDAdapter:
    """Put an adapter on FLUX.1-dev."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Puts a Diffusion Self-Distillation adapter on FLUX.1-dev. Works under every memory budget."
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)
    OUTPUT_TOOLTIPS = ("The model with the adapter; give it a reference by DSD Reference.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "FLUX.1-dev or a fine-tune. Load LoRAs of others before this node."}),
                "adapter": (
                    folder_paths.get_filename_list("loras"),
                    {"tooltip": "A file of dsd-export to=comfyui_lora, in models/loras."},
                ),
                "strength": (
                    "FLOAT",
                    {
                        "default": 1.0, "min": 0.0, "max": 2.0, "step": 0.01,
                        "tooltip": "Of the LoRA and of the condition together. 1 is how it was trained.",
                    },
                ),
            }
        }  # fmt: skip

    def apply(self, model, adapter, strength):
        path = folder_paths.get_full_path_or_raise("loras", adapter)
        return (with_adapter(model, comfy.utils.load_torch_file(path, safe_load=True), strength),)


class DSDReference:
    """Make the conditionings and the empty latent of a canvas."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Encodes the reference beside a black panel, as the student was trained. Width and height are those of the "
        "output; the canvas that is sampled is twice as wide."
    )
    FUNCTION = "encode"
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("image_and_text", "image_only", "nothing", "latent")
    OUTPUT_TOOLTIPS = (
        "Reference and prompt.",
        "Reference and negative prompt, for DSD Guider.",
        "No reference (the exact zero condition) and negative prompt, for DSD Guider.",
        "The empty canvas.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "positive": ("CONDITIONING", {"tooltip": "The prompt, after FluxGuidance."}),
                "negative": (
                    "CONDITIONING",
                    {"tooltip": "The empty or negative prompt, after FluxGuidance. Used by DSD Guider alone."},
                ),
                "vae": ("VAE", {"tooltip": "FLUX.1's VAE (ae.safetensors)."}),
                "image": ("IMAGE", {"tooltip": "The reference. Of a batch, the first picture is taken."}),
                "width": (
                    "INT",
                    {"default": 512, **SIZE, "tooltip": "Width of the output in pixels, not of the canvas."},
                ),
                "height": ("INT", {"default": 512, **SIZE, "tooltip": "Height of the output in pixels."}),
                "fit": (
                    list(FITS),
                    {"tooltip": "crop cuts what stands out, pad shows all on white, stretch ignores proportions."},
                ),
                "batch_size": (
                    "INT",
                    {
                        "default": 1,
                        "min": 1,
                        "max": 64,
                        "tooltip": "Pictures drawn at once.",
                    },
                ),
            }
        }

    def encode(self, positive, negative, vae, image, width, height, fit, batch_size):
        panel = fitted(image[0], height, width, fit)[None]
        cond_latents = vae.encode(canvas_of(panel))
        # ComfyUI subtracts the VAE's shift from this latent; what becomes exactly zero is the shift itself
        nothing = comfy.latent_formats.Flux().process_out(torch.zeros_like(cond_latents))
        empty = torch.zeros(batch_size, *cond_latents.shape[1:], device=cond_latents.device)
        return (
            node_helpers.conditioning_set_values(positive, {"concat_latent_image": cond_latents}),
            node_helpers.conditioning_set_values(negative, {"concat_latent_image": cond_latents}),
            node_helpers.conditioning_set_values(negative, {"concat_latent_image": nothing}),
            {"samples": empty},
        )


class Guider(comfy.samplers.CFGGuider):
    """Guidance by image and text; the first steps of a schedule take the plain conditional pass."""

    NAMES = ("image_and_text", "image_only", "nothing")

    def configure(self, conditionings, scales: Scales, num_plain: int) -> None:
        """Set the three conditionings in the order of `NAMES`, the scales, and the number of plain steps."""
        self.inner_set_conds(dict(zip(self.NAMES, conditionings)))
        self.scales, self.num_plain = scales, num_plain

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        model_options = model_options or {}
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        plain = is_plain(float(timestep.flatten()[0]), sigmas, self.num_plain)

        def passes(numbers):
            conds = [self.conds[self.NAMES[number]] for number in numbers]
            return comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)

        return guided(passes, Scales() if plain else self.scales)


class DSDGuider:
    """Make a guider for SamplerCustomAdvanced."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Guides by the reference and by the text apart: for SamplerCustomAdvanced. Scales of 1 take one pass."
    FUNCTION = "make"
    RETURN_TYPES = ("GUIDER",)
    OUTPUT_TOOLTIPS = ("For SamplerCustomAdvanced.",)

    @classmethod
    def INPUT_TYPES(cls):
        scale = {"default": 1.0, "min": 0.0, "max": 20.0, "step": 0.05}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model with the adapter."}),
                "image_and_text": ("CONDITIONING", {"tooltip": "Of DSD Reference."}),
                "image_only": ("CONDITIONING", {"tooltip": "Of DSD Reference."}),
                "nothing": ("CONDITIONING", {"tooltip": "Of DSD Reference."}),
                "image_guidance": ("FLOAT", {**scale, "tooltip": "Above 1: closer to the reference."}),
                "text_guidance": ("FLOAT", {**scale, "tooltip": "Above 1: closer to the prompt."}),
                "norm_balanced": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Shortens the longer of the two differences to the other's, against overexposure.",
                    },
                ),
                "plain_steps": (
                    "INT",
                    {"default": 2, "min": 0, "max": 100, "tooltip": "The first steps are not guided; 2 as released."},
                ),
            }
        }

    def make(
        self, model, image_and_text, image_only, nothing, image_guidance, text_guidance, norm_balanced, plain_steps
    ):
        guider = Guider(model)
        scales = Scales(image_guidance, text_guidance, norm_balanced)
        guider.configure((image_and_text, image_only, nothing), scales, plain_steps)
        return (guider,)


class DSDSplit:
    """Cut a drawn canvas."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Cuts the drawn canvas into the output and the redrawn reference."
    FUNCTION = "split"
    RETURN_TYPES = ("IMAGE", "IMAGE")
    RETURN_NAMES = ("output", "reference")
    OUTPUT_TOOLTIPS = ("The right panel: the picture.", "The left panel: the reference as the model redrew it.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"canvas": ("IMAGE", {"tooltip": "What VAEDecode made of the sampled canvas."})}}

    def split(self, canvas):
        return panels_of(canvas)


class DSDEnhancePrompt:
    """Ask a language model for a fuller prompt."""

    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Describes the reference and writes out the prompt with what was seen, by two calls of a language model. The "
        "picture is sent to the provider. The key is read from GEMINI_API_KEY or OPENAI_API_KEY, the address of a "
        "server of your own from GEMINI_BASE_URL or OPENAI_BASE_URL."
    )
    FUNCTION = "enhance"
    RETURN_TYPES = ("STRING",)
    OUTPUT_TOOLTIPS = ("The enhanced prompt.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "The reference. It is sent to the provider."}),
                "prompt": ("STRING", {"multiline": True, "default": "", "tooltip": "What you want to see."}),
                "provider": (list(PROVIDERS), {"tooltip": "Whose key is in ComfyUI's environment."}),
                "model": (
                    "STRING",
                    {"default": "gemini-2.5-flash", "tooltip": "The provider's name of a model that sees pictures."},
                ),
            }
        }

    def enhance(self, image, prompt, provider, model):
        pixels = (image[0, ..., :3].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return (enhanced(Image.fromarray(pixels), prompt, provider, model),)


NODE_CLASS_MAPPINGS = {
    node.__name__: node for node in (DSDAdapter, DSDReference, DSDGuider, DSDSplit, DSDEnhancePrompt)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "DSDAdapter": "DSD Adapter",
    "DSDReference": "DSD Reference",
    "DSDGuider": "DSD Guider",
    "DSDSplit": "DSD Split",
    "DSDEnhancePrompt": "DSD Enhance Prompt",
}
