"""Variants of a task's training texts: words masked or replaced, pieces cut out. After Tang et al., "Distilling
Task-Specific Knowledge from BERT into Simple Neural Networks" (arXiv 1903.12136, section 3.3)."""

import hashlib
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import datasets
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from neurotool.errors import ConfigError, DataError, one_line
from neurotool.tasks import TaskData, tokenise
from neurotool.train.plan import TrainingPlan
from neurotool.train.progress import say

_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CLITIC = r"['’](?:s|re|ve|ll|d|m)\b"
_WORD = re.compile(
    rf"(?P<space>\s*)(?P<word>[{_CHINESE}]"
    rf"|{_CLITIC}|[^\W{_CHINESE}]+(?:(?!{_CLITIC})['’-][^\W{_CHINESE}]+)*"
    r"|(?P<sign>[^\w\s])(?P=sign)*)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Chances:
    """Per word: to become the mask token, or another word of its part of speech. Per text: that only a run of 1 to
    `longest` words of it is kept. The values are those of the paper."""

    mask: float = 0.1
    replace: float = 0.1
    ngram: float = 0.25
    longest: int = 5


class Word(NamedTuple):
    """space: what stands before it. tag: Penn Treebank part of speech; None for a Chinese character."""

    space: str
    text: str
    tag: str | None


class Frequencies(NamedTuple):
    """Words of one tag, and the running sum of how often each occurs."""

    words: list[str]
    cumulative: list[int]


def make_variants(
    plan: TrainingPlan, data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int, console: Console
) -> datasets.Dataset:
    """Tokenised variants of the training texts, without labels; says how many there are.

    Raises ConfigError when the teacher's tokenizer has no mask token, or as `augment`.
    """
    if tokenizer.mask_token is None:
        raise ConfigError(f"--augment {plan.augment}: the tokenizer of {plan.teacher} has no mask token; leave it out")
    texts = augment(data.train, plan.augment, tokenizer.mask_token, plan.seed)
    say(console, f"augmentation: {len(data.train)} texts and {len(texts)} variants")
    return tokenise(texts, tokenizer, max_length)[0]


def augment(
    dataset: datasets.Dataset, variants: int, mask_token: str, seed: int, chances: Chances | None = None
) -> datasets.Dataset:
    """Up to `variants` variants of every text (of every pair: of both its sentences), without labels.

    A variant that is empty, a text of `dataset` or made before is left out. Each depends on the seed, its text's
    position and its own number alone. The result (sentence1, and sentence2 of pairs) is an Arrow file in the cache of
    `datasets`, memory-mapped.

    Raises:
        ConfigError: the tagger is not installed.
        DataError: every variant was left out, or the cache cannot be written.
    """
    _tagger()
    columns = [name for name in ("sentence1", "sentence2") if name in dataset.column_names]
    arguments = {
        "dataset": dataset.select_columns(columns),
        "variants": variants,
        "mask_token": mask_token,
        "seed": seed,
        "chances": chances or Chances(),
    }
    if next(_rows(**arguments), None) is None:
        raise DataError("augmentation: no variant differs from the training texts; leave out --augment")
    features = datasets.Features(dict.fromkeys(columns, datasets.Value("string")))
    try:
        return datasets.Dataset.from_generator(_rows, features=features, gen_kwargs=arguments)
    except datasets.exceptions.DatasetGenerationError as error:
        raise DataError(f"augmentation: the variants cannot be cached: {one_line(error.__cause__ or error)}") from error


def tag_words(text: str) -> list[Word]:
    """Words and signs in order. A Chinese character is a word of its own, as in BERT's vocabulary, without a tag."""
    found = list(_WORD.finditer(text))
    words = [match["word"] for match in found]
    tagged = _tagger().tag(" ".join(words), tokenize=False) if words else []
    return [
        Word(match["space"], word, None if re.match(f"[{_CHINESE}]", word) else tag)
        for match, word, (_, tag) in zip(found, words, tagged, strict=True)
    ]


def count_words(dataset: datasets.Dataset) -> dict[str, Frequencies]:
    """Of each tag, the words of all texts."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in dataset:
        for text in example.values():
            for word in tag_words(text):
                if word.tag is not None:
                    counts[word.tag][word.text] += 1
    return {tag: Frequencies(list(count), list(accumulate(count.values()))) for tag, count in counts.items()}


def vary(
    words: list[Word], vocabulary: dict[str, Frequencies], mask_token: str, chances: Chances, choose: random.Random
) -> str:
    """One variant of a text. One draw a word decides what happens to it; a word without a tag is never replaced."""
    changed = []
    for word in words:
        draw, text = choose.random(), word.text
        if draw < chances.mask:
            text = mask_token
        elif draw < chances.mask + chances.replace and word.tag is not None:
            same = vocabulary[word.tag]
            (text,) = choose.choices(same.words, cum_weights=same.cumulative)
        changed.append(word.space + text)
    if changed and choose.random() < chances.ngram:
        length = min(choose.randint(1, chances.longest), len(changed))
        start = choose.randint(0, len(changed) - length)
        changed = changed[start : start + length]
    return "".join(changed).strip()


def _rows(
    dataset: datasets.Dataset, variants: int, mask_token: str, seed: int, chances: Chances
) -> Iterator[dict[str, str]]:
    vocabulary = count_words(dataset)
    seen = {_digest(example) for example in dataset}
    for position, example in enumerate(dataset):
        tagged = {name: tag_words(text) for name, text in example.items()}
        for number in range(variants):
            choose = random.Random(f"{seed} {position} {number}")
            variant = {name: vary(words, vocabulary, mask_token, chances, choose) for name, words in tagged.items()}
            digest = _digest(variant)
            if all(variant.values()) and digest not in seen:
                seen.add(digest)
                yield variant


def _digest(texts: dict[str, str]) -> bytes:
    """In place of the texts themselves, which may not fit into memory."""
    return hashlib.blake2b("\0".join(text.strip() for text in texts.values()).encode(), digest_size=16).digest()


def _tagger() -> Any:
    """TextBlob's tagger with a lexicon: it needs none of the NLTK data that others of it download."""
    try:
        from textblob.taggers import PatternTagger
    except ImportError:
        raise ConfigError(
            "--augment needs TextBlob to tag parts of speech, which is not installed; run: pip install textblob"
        ) from None
    return PatternTagger()
