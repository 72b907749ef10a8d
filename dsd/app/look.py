"""How the page looks: Gradio's own theme with the system's fonts, so that nothing is loaded from elsewhere."""

import html

import gradio as gr

SANS, MONO = ("system-ui", "Segoe UI", "Helvetica Neue", "sans-serif"), ("ui-monospace", "Menlo", "monospace")
HEAD = '<meta name="viewport" content="width=device-width, initial-scale=1">'
CSS = """
.gradio-container { max-width: 1320px !important; margin: 0 auto }
#title h1 { margin: .2em 0 0; font-size: 1.5rem } #title p { margin: 0; color: var(--body-text-color-subdued) }
.pixels img { image-rendering: pixelated }
#reference img, #sheet img, #comparison img { object-fit: contain }
.bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden }
.bar > div { height: 100%; background: var(--primary-500); transition: width .2s }
.status { min-height: 3em; padding: 4px 2px } .status p { margin: 6px 0 0; font-size: .9rem }
.tight button { padding-left: .6em; padding-right: .6em }
@media (max-width: 700px) { #go { position: sticky; bottom: 0; z-index: 20; background: var(--body-background-fill) } }
"""


def theme() -> gr.themes.Base:
    """Make the theme."""
    return gr.themes.Soft(primary_hue="emerald", neutral_hue="slate", font=list(SANS), font_mono=list(MONO))


def status(text: str, share: float | None = None) -> str:
    """Say in one line what happens, under a bar where `share` of the work is done."""
    bar = "" if share is None else f'<div class="bar"><div style="width:{100 * min(share, 1):.1f}%"></div></div>'
    return f'<div class="status">{bar}<p>{html.escape(text)}</p></div>'
