"""Nodes for the test of the server alone: stored texts and latents, and a budget of memory."""

import os

import comfy.utils
import folder_paths


def stored(name):
    return comfy.utils.load_torch_file(os.path.join(folder_paths.get_input_directory(), name), safe_load=True)


class TestConditioning:
    """Give a text that was encoded before, in place of text encoders of 10 GB."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "give", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {})}}

    def give(self, file):
        text = stored(file)
        return ([[text["embeds"], {"pooled_output": text.get("pooled")}]],)


class TestLatent:
    """Give a latent that was encoded before."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "give", ("LATENT",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"file": ("STRING", {})}}

    def give(self, file):
        return ({"samples": stored(file)["latent"]},)


class TestBudget:
    """Load a part of the model's weights, as ComfyUI does where a card has no room for all of them."""

    CATEGORY, FUNCTION, RETURN_TYPES = "test", "limit", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "fraction": ("FLOAT", {})}}

    def limit(self, model, fraction):
        limited = model.clone()
        whole, budget = limited.load, int(fraction * limited.model_size())

        def load(device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False, **others):
            return whole(device_to, budget, force_patch_weights, False, **others)

        limited.load = load
        return (limited,)


NODE_CLASS_MAPPINGS = {node.__name__: node for node in (TestConditioning, TestLatent, TestBudget)}
