"""Layer numbers from the hook names of other libraries."""

from __future__ import annotations

import re


def layer_of(hook: str) -> tuple[int | None, str]:
    """(L, note) of a TransformerLens hook: blocks.L.hook_resid_post is the output of block L, resid_pre that of L - 1.

    The note is empty for the residual stream, and says what else is read otherwise; L is None where there is none.
    """
    found = re.search(r"blocks\.(\d+)\.", hook)
    if not found:
        return None, f"It reads {hook}, which is not a residual stream." if hook else ""
    block = int(found.group(1))
    if hook.endswith("hook_resid_post"):
        return block, ""
    if hook.endswith("hook_resid_pre") and block > 0:
        return block - 1, ""
    return block, f"It reads {hook}, which is not the output of block {block}."
