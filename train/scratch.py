"""A teacher where no pretrained one is at hand: a vocabulary of the training texts and a small BERT of random weights,
which fine-tuning then trains like any other teacher without a head."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, set_seed

from neurotool.errors import TeacherError
from neurotool.tasks import TaskData
from neurotool.train.plan import TrainingPlan
from neurotool.train.teacher import LoadedTeacher, head_options, identify

FEWEST_TEXTS = 50
VOCABULARY = 8000
LONGEST_WORD = 100
"""Characters: longer words are [UNK] to WordPiece, and learning from them takes the square of their length."""
SHAPE: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
}
"""Chosen on validation reviews of hotels and meals; with 4 layers nothing was learned in as many seconds."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def scratch_teacher(plan: TrainingPlan, data: TaskData) -> LoadedTeacher:
    """An untrained BERT with a head for the task and as many positions as texts may have tokens; the same for the same
    data and seed. Raises TeacherError for too few training texts."""
    if len(data.train) < FEWEST_TEXTS:
        raise TeacherError(
            f"teacher scratch: {len(data.train)} training texts are too few, it needs at least {FEWEST_TEXTS}; give "
            "more, or a pretrained BERT with --teacher"
        )
    tokenizer = learn_tokenizer(
        [text for name in data.train.column_names if name != "label" for text in data.train[name]]
    )
    if len(tokenizer) <= len(_SPECIAL):
        raise TeacherError(
            f"teacher scratch: no character occurs twice in the {len(data.train)} training texts, so all would be "
            "unknown to it; give more, or a pretrained BERT with --teacher"
        )
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=plan.max_length,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
        **SHAPE,
        **head_options(data.task),
    )
    set_seed(plan.seed)
    model = BertForSequenceClassification(config)
    return LoadedTeacher(model, tokenizer, False, identify(model, tokenizer, False))


def learn_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> BertTokenizer:
    """WordPiece of at most `size` tokens (more only for more characters): characters for Chinese, which BERT's
    normalizer sets apart, pieces of words for other scripts. Characters that occur once are [UNK]."""
    learner = BertTokenizer().backend_tokenizer
    words: Counter[str] = Counter()
    read = []
    for text in texts:
        normal = learner.normalizer.normalize_str(text)
        found = [word for word, _ in learner.pre_tokenizer.pre_tokenize_str(normal)]
        short = [word for word in found if len(word) <= LONGEST_WORD]
        words.update(short)
        read.append(text if len(short) == len(found) else " ".join(short))
    seen: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            seen[character] += count
    kept = {character for character, count in seen.items() if count > 1}
    # The library numbers "##x" in the order of a hash table, by which it then breaks ties: given first, in our order.
    inner = sorted({f"##{character}" for word in words for character in word[1:] if character in kept})
    trainer = WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        limit_alphabet=len(kept),
        special_tokens=[*_SPECIAL, *inner],
        show_progress=False,
    )
    learner.train_from_iterator(read, trainer)
    tokens = [*_SPECIAL, *sorted(set(learner.get_vocab()) - set(_SPECIAL))]
    return BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
