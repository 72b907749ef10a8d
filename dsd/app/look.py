"""How the page looks: Gradio's own theme with the system's fonts, so that nothing is loaded from elsewhere."""

import html
from collections.abc import Iterable

import gradio as gr
from PIL import Image

from dsd.io.pictures import data_uri

SANS, MONO = ("system-ui", "Segoe UI", "Helvetica Neue", "sans-serif"), ("ui-monospace", "Menlo", "monospace")
HEAD = '<meta name="viewport" content="width=device-width, initial-scale=1">'
CSS = """
#title h1 { margin: .2em 0 0; font-size: 1.5rem } #title p { margin: 0; color: var(--body-text-color-subdued) }
.gradio-container > main { max-width: 1320px; margin: 0 auto; width: 100% }
.pixels img { image-rendering: pixelated }
#reference img, #sweep-sheet img, #compare-sheet img { object-fit: contain }
.bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden }
.bar > div { height: 100%; background: var(--primary-500); transition: width .2s }
.status { min-height: 2.4em; padding: 0 2px } .status p { margin: 6px 0 0; font-size: .9rem }
.tight { gap: 8px } .tight button { padding-left: .6em; padding-right: .6em }
#dice { align-self: end; margin-bottom: 12px }
#pictures { min-height: 300px } #pictures .grid-wrap { max-height: none }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 12px }
.cards figure { margin: 0; border: 1px solid var(--border-color-primary); border-radius: 6px; padding: 8px }
.cards img { width: 100%; display: block } .cards figcaption { font-size: .85rem; margin-top: 6px }
.cards figcaption b { display: block }
 .thumb { max-width: 96px }
#examples button.gallery-item { width: 56px } #examples img { width: 54px; height: 54px; object-fit: cover }
@media (max-width: 700px) {
  #go { position: fixed; left: 0; right: 0; bottom: 0; z-index: 40; padding: 8px 12px 4px; gap: 4px;
        background: var(--body-background-fill); border-top: 1px solid var(--border-color-primary) }
  #go .row { flex-wrap: nowrap }
  .gradio-container { padding-bottom: 120px !important }
}
"""


def theme() -> gr.themes.Base:
    """Make the theme."""
    return gr.themes.Default(primary_hue="emerald", neutral_hue="slate", font=list(SANS), font_mono=list(MONO))


def cards(shown: Iterable[tuple[Image.Image, str, str]]) -> str:
    """Lay out pictures with a headline and words each, as HTML; texts of data are escaped."""
    each = (
        f'<figure><img alt="" src="{data_uri(picture, 512)}"><figcaption><b>{html.escape(headline)}</b>'
        f"{html.escape(words)}</figcaption></figure>"
        for picture, headline, words in shown
    )
    return f'<div class="cards">{"".join(each)}</div>'


def status(text: str, share: float | None = None) -> str:
    """Say in one line what happens, under a bar where `share` of the work is done."""
    bar = "" if share is None else f'<div class="bar"><div style="width:{100 * min(share, 1):.1f}%"></div></div>'
    return f'<div class="status">{bar}<p>{html.escape(text)}</p></div>'
