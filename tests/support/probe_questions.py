"""Questions that probes are measured on, and a task that holds given questions."""

from dataclasses import dataclass

from layerroles.tasks.base import Example, Task


@dataclass(frozen=True)
class Listed(Task):
    """Examples as they are given."""

    family = "knowledge"

    given: tuple[Example, ...] = ()
    name = "listed"
    label = "listed"

    def examples(self, limit: int, seed: int) -> list[Example]:
        return list(self.given[:limit])

    def held_out(self, limit: int, seed: int) -> list[str]:
        return []


QUESTIONS = (
    Example("7", "the cat sat on the", "mat", ("mat", "sofa", "moon"), evidence=((4, 7),)),
    Example("b", "one two", "three", ("three", "thirty", "two", "four")),
)
