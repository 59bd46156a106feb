"""`item-jax app`."""

from __future__ import annotations

import argparse

from item_jax.commands import SIDECARS, option, say, sidecar_request

HELP = "Open a page in the browser to drop an image on."
EXAMPLE = (
    "item-jax app --head run/head\n"
    "  item-jax app --head run/head --caption-with Salesforce/blip2-opt-2.7b \\\n"
    "      --ground-with mm-grounding-dino"
)
# Its captions are kept where they always are.
ASKED = tuple(o for o in SIDECARS if o.names[0] != "--sidecar-cache")
OPTIONS = (
    option("--head", required=True, help="fitted method: folder or Hugging Face id"),
    option("--towers", help="folder, id or ID@REVISION; default: the head's own"),
    *ASKED,
    option("--host", default="127.0.0.1", help="0.0.0.0: for everybody; default: me"),
    option("--port", type=int, help="default: 7860, or the next free one"),
)


def run(arguments: argparse.Namespace) -> int:
    from item_jax import app
    from item_jax.sharding import enable_compilation_cache
    from item_jax.sidecar_runs import Request

    arguments.sidecar_cache = None
    request = sidecar_request(arguments) or Request("")
    app.check(request)
    enable_compilation_cache()
    page = app.page(arguments.head, towers=arguments.towers, caption_with=request)
    _, url, _ = page.launch(
        server_name=arguments.host,
        server_port=arguments.port,
        prevent_thread_lock=True,
        quiet=True,
    )
    say(f"{url} (Ctrl-C ends it)")
    page.block_thread()
    return 0
