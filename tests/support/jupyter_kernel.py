"""A Jupyter kernel as a front end sees it: cells go in, outputs and completions come out."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.manager import KernelManager

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 300


class Kernel:
    """A running kernel."""

    def __init__(self, manager: KernelManager, client: Any) -> None:
        self._manager, self._client = manager, client

    def run(self, code: str, on_print: Callable[[str], None] = lambda text: None) -> list[Any]:
        """The outputs of a cell, as a front end has them in the end; `on_print` gets printed text.

        Each is of a kind: stream (name, text), display_data, execute_result (data) or error (ename,
        evalue).
        """
        shown: list[Any] = []
        places: dict[str, Any] = {}

        def hear(message: Any) -> None:
            kind, content = message["msg_type"], message["content"]
            place = content.get("transient", {}).get("display_id")
            if kind == "update_display_data":
                places[place] |= {"data": content["data"], "updates": places[place]["updates"] + 1}
            elif kind in ("stream", "display_data", "execute_result", "error"):
                shown.append({"kind": kind, "updates": 0, **content})
                places[place] = shown[-1]
            if kind == "stream":
                on_print(content["text"])

        self._client.execute_interactive(code, output_hook=hear, timeout=_SECONDS)
        return shown

    def complete(self, code: str) -> list[str]:
        """What Tab offers behind a piece of code."""
        reply = self._client.complete(code, reply=True, timeout=_SECONDS)
        return list(reply["content"]["matches"])

    def interrupt(self) -> None:
        """Interrupt the kernel, as the stop button does."""
        self._manager.interrupt_kernel()


@contextmanager
def kernel(folder: Path) -> Iterator[Kernel]:
    """Within the context, a kernel runs in a folder, with this clone's package."""
    manager = KernelManager(kernel_name="python3")
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    manager.start_kernel(cwd=str(folder), env=env)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=_SECONDS)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
