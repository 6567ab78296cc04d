"""Full fine-tuning on lessons: batches of packed texts, loss on what is learned, AdamW."""

import random
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from lessons import Lesson

import layerroles as lr

_SEAM = "\n\n"


def train_model(
    model: Any,
    fed: Iterator[dict[str, torch.Tensor]],
    *,
    steps: int,
    rate: float,
    minutes: float,
    dtype: torch.dtype = torch.float32,
) -> list[float]:
    """Fine-tune all weights in place; return the loss of each step.

    The weights of `model` are float32: most updates are smaller than the rounding error of bfloat16
    and would be lost. Passes are computed in `dtype`.

    Raises:
        InputError: after the first steps, training is expected to take longer than `minutes`.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    schedule = transformers.get_cosine_schedule_with_warmup(
        optimizer, max(1, steps // 10), steps + 1
    )
    losses, began = [], time.monotonic()
    model.train()
    for step, batch in zip(range(1, steps + 1), fed, strict=False):
        with torch.autocast(model.device.type, dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        needed = (time.monotonic() - began) / step * steps / 60
        if step == min(5, steps) and needed > minutes:
            raise lr.InputError(
                f"{steps} steps would take {needed:.0f} minutes here, more than --minutes "
                f"{minutes:g}: ask for fewer --steps or --texts"
            )
    return losses


def make_batches(
    lessons: Sequence[Lesson], tokenizer: Any, *, texts: int, packed: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches without end, of `texts` texts of `packed` lessons of one kind, in a random order."""
    rng, ready = random.Random(f"batches:{seed}"), []
    waiting: dict[str, list[Lesson]] = {}
    while True:
        for lesson in rng.sample(lessons, len(lessons)):
            own = waiting.setdefault(lesson.kind, [])
            own.append(lesson)
            if len(own) == packed:
                ready.append(encode_lessons(waiting.pop(lesson.kind), tokenizer))
        while len(ready) >= texts:
            rows, ready = ready[:texts], ready[texts:]
            longest = max(len(ids) for ids, _ in rows)
            ids = torch.zeros(texts, longest, dtype=torch.long)
            labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
            for place, (own, learned) in enumerate(rows):
                ids[place, : len(own)], labels[place, : len(own)] = own, learned
                mask[place, : len(own)] = 1
            yield {"input_ids": ids, "labels": labels, "attention_mask": mask}


def encode_lessons(lessons: Sequence[Lesson], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of a text of lessons, and the same as labels: -100 wherever nothing is learned."""
    text, spans = "", []
    for lesson in lessons:
        text += lesson.prompt
        spans.append((len(text), len(text) + 1 + len(lesson.target) + len(_SEAM)))
        text += f" {lesson.target}{_SEAM}"
    found = tokenizer(text, return_offsets_mapping=True)
    ids = torch.tensor(found["input_ids"])
    learned = [
        any(start <= first < last <= end for start, end in spans)
        for first, last in found["offset_mapping"]
    ]
    return ids, torch.where(torch.tensor(learned), ids, -100)
