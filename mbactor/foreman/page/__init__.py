"""A flow's history as one HTML page that needs nothing else: no script, no font, no network.

    html = history_page(summary, steps, now=clock.utcnow())

`timeline.py` draws which step ran when, `table.py` lists what each was and how it ended, `text.py` escapes. Pure. All
text of authors is escaped, and a policy in the page itself forbids whatever would be loaded or run.
"""

from __future__ import annotations

from mbactor.foreman.page.page import history_page

__all__ = ["history_page"]
