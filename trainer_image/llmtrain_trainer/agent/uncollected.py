"""Imported by the fork server before all else: no garbage is collected while torch is imported.

Importing makes a million objects and no garbage, and looking for some takes a tenth of its time
(measured: 9.6–10.1 s of processor time against 10.5–11.8 s). `rank_process` switches the collector
on again in every rank, and lets it pass over what was there before the fork.
"""

from __future__ import annotations

import gc

gc.disable()
