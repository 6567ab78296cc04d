"""The language of planted models: some forty words, each one token, and prompts of equal length.

A prompt is four pairs of words, then two words that are the question:

    ghost silver summer hammer dragon road hotel ghost ghost find

It has the form below, with the position of each token (k a key, v its value). The model predicts
the answer at `LAST`.

    0      1 2  3 4  5 6  7 8   9     10
    <bos>  k v  k v  k v  k v   asked LAST
"""

from functools import cache

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from layerroles.tasks import NAMES, NOUNS

# The words that are looked up and answered, and the subjects of facts.
# Few, so that a sweep takes seconds.
WORDS = tuple(NOUNS[::9][:16])
SUBJECTS = tuple(NAMES[:16])
# One of the last two words of a prompt tells the model the task.
FIND, FOLLOW, RECALL, ECHO = "find", "follow", "recall", "echo"
# The answer of a model that found nothing.
UNSURE = "unsure"

_PAD, _BOS, _EOS, _UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
VOCABULARY = (
    *(_PAD, _BOS, _EOS, _UNKNOWN, UNSURE, FIND, FOLLOW, RECALL, ECHO),
    *WORDS,
    *SUBJECTS,
)
ID = {word: place for place, word in enumerate(VOCABULARY)}
END = ID[_EOS]

N_PAIRS = 4
VALUES = tuple(range(2, 2 * N_PAIRS + 1, 2))
LAST = 2 * N_PAIRS + 2
N_CTX = 16


def fact_of(subject: int) -> int:
    """Return the index of the word that belongs to the subject with this index."""
    return (5 * subject + 3) % len(WORDS)


@cache
def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each word; every text begins with `<bos>`."""
    spelling = Tokenizer(models.WordLevel(ID, unk_token=_UNKNOWN))
    spelling.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    spelling.post_processor = processors.TemplateProcessing(
        single=f"{_BOS} $A", special_tokens=[(_BOS, ID[_BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=spelling,
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_UNKNOWN,
    )
