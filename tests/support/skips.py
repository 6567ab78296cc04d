"""Why a test may skip itself. Any other skip is a failure, so that none goes unnoticed."""

import re

ALLOWED = {
    "all tests skipped by +SKIP option": "an example that is shown, not run",
    "no disk can be mounted here": "only root can mount a small disk to fill",
    "Linux tells the peak": "peak memory is read from Linux's /proc",
    "settings of glibc's allocator": "other C libraries have none",
    "there is such a device": "the test needs a machine without a GPU",
    "its attention goes through transformers' interface from 5.24 on": "in older versions",
}


def is_allowed(reason: str) -> bool:
    """Return whether a skip's reason is on the list."""
    return any(re.match(rf"(Skipped: )?{re.escape(known)}", reason) for known in ALLOWED)
