"""A web page that draws: `dsd-app`, by Gradio."""

import os

# Gradio reads these when it is imported. The page asks no other server for anything.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
