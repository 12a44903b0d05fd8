"""Everything a run trains on, tokenised and looked at before anything is trained."""

import hashlib
import itertools
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import datasets
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from neurotool.errors import TeacherError
from neurotool.tasks import TaskData, tokenise
from neurotool.train.augmentation import make_variants
from neurotool.train.corpus import load_corpus
from neurotool.train.plan import TrainingPlan
from neurotool.train.progress import say
from neurotool.train.teacher import cache_folder, describe_tokenizer

UNKNOWN = 0.05
"""Share of unknown tokens above which something is likely to be wrong."""


@dataclass(frozen=True)
class Texts:
    """Tokenised. variants: of the training texts, not labelled yet. corpus: unlabelled, for general distillation."""

    train: datasets.Dataset
    validation: datasets.Dataset
    variants: datasets.Dataset | None
    corpus: datasets.Dataset | None


def read_texts(
    plan: TrainingPlan, data: TaskData, tokenizer: PreTrainedTokenizerBase, positions: int, console: Console
) -> Texts:
    """Everything the plan trains on, before anything is trained; says what is cut to the teacher's `positions` or to
    --max-length. Raises NeurotoolError for a corpus or a tagger that cannot be read."""
    max_length = min(plan.max_length, positions)
    if max_length < plan.max_length:
        say(console, f"--max-length {plan.max_length}: the teacher has {max_length} positions, which is now the limit")
    splits = []
    for name, split in (("train", data.train), ("validation", data.validation)):
        tokens, truncated = tokenise(split, tokenizer, max_length, _kept(data.hashes[name], tokenizer, max_length))
        splits.append(tokens)
        if truncated:
            say(console, f"{name}: {truncated} of {len(tokens)} texts are longer than {max_length} tokens: cut")
    check_unknown(plan.teacher, splits[0], tokenizer, console)
    variants = make_variants(plan, data, tokenizer, max_length, console) if plan.augment else None
    corpus = None
    if plan.corpus and any(stage.name == "general" for stage in plan.stages):
        length = min(plan.corpus_length, max_length)
        if length < plan.corpus_length:
            say(console, f"--corpus-length {plan.corpus_length}: texts have at most {length} tokens, now the limit")
        corpus = load_corpus(plan.corpus, tokenizer, length, plan.max_texts)
    return Texts(splits[0], splits[1], variants, corpus)


def _kept(texts: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Path | None:
    """The file of these tokens in the cache; None where there can be none. texts: hash of texts and labels."""
    digest = hashlib.sha256(json.dumps([texts, describe_tokenizer(tokenizer), max_length], sort_keys=True).encode())
    path = cache_folder() / "tokens" / f"{digest.hexdigest()[:24]}.arrow"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return path


def check_unknown(teacher: str, texts: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, console: Console) -> None:
    """Say, or from half of them on refuse, that many tokens are unknown to the teacher: most often it reads a cased
    vocabulary as an uncased one, or texts of another language. Raises TeacherError."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    ids = itertools.chain.from_iterable(texts[: min(len(texts), 2000)]["input_ids"])
    counts = Counter(token for token in ids if token not in special)
    share = counts[tokenizer.unk_token_id] / max(counts.total(), 1)
    if share <= UNKNOWN:
        return
    said = f"{share:.0%} of the tokens of the training texts are unknown ({tokenizer.unk_token}); {_remedy(tokenizer)}"
    if share > 0.5:
        raise TeacherError(f"teacher {teacher}: {said}")
    say(console, f"warning: teacher {teacher}: {said}")


def _remedy(tokenizer: PreTrainedTokenizerBase) -> str:
    """What to change where the vocabulary's case is not that of the texts as they are read."""
    words = [word for word in tokenizer.get_vocab() if word not in tokenizer.all_special_tokens]
    cased = any(word != word.lower() for word in words)
    normalizer = tokenizer.backend_tokenizer.normalizer
    lowered = normalizer is not None and normalizer.normalize_str("A") == "a"
    if cased == lowered:
        return (
            f"set do_lower_case to {str(not lowered).lower()} in its tokenizer_config.json, or choose another teacher"
        )
    return "choose a teacher of the language of the texts"
