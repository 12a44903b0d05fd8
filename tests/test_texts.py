"""How texts become tokens: cut at one length, padded on one side, from files that cannot make anything else happen."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from neurotool.errors import DataError
from neurotool.header import try_tokenizer
from neurotool.texts import INPUTS, as_utf8, encode, load_tokenizer, longest, pad, tokenizer_files, tokenizer_from_files
from neurotool.train.plan import TrainingPlan

ODD = ["good w1", "a Café, naïve! [MASK] bads .", "映画 w2" * 9, "x" * 300, "   ", "🎬 fine\tw3"]


def change(folder: Path, name: str, **values: Any) -> None:
    file = folder / name
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def copy(tiny_teacher: Path, tmp_path: Path) -> Path:
    for file in tiny_teacher.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_text_without_tokens(tiny_teacher: Path) -> None:
    """No special tokens, and a text that is nothing to the tokenizer."""
    files = tokenizer_files(AutoTokenizer.from_pretrained(tiny_teacher))
    made = json.dumps(json.loads(files["tokenizer.json"]) | {"post_processor": None})
    tokenizer = tokenizer_from_files(files | {"tokenizer.json": made})
    assert encode(tokenizer, [["good w1"]], 8).tokens["input_ids"][0]
    with pytest.raises(DataError, match=r"the tokenizer gives no token for '   '; use another tokenizer"):
        encode(tokenizer, [["good", "   "]], 8)


def test_a_segment_that_the_network_lacks(tiny_teacher: Path) -> None:
    """In the template of single texts, or in that of pairs."""
    files = tokenizer_files(AutoTokenizer.from_pretrained(tiny_teacher))
    for template in ("single", "pair"):
        made = json.loads(files["tokenizer.json"])
        next(part["Sequence"] for part in made["post_processor"][template] if "Sequence" in part)["type_id"] = 7
        tokenizer = tokenizer_from_files(files | {"tokenizer.json": json.dumps(made)})
        with pytest.raises(ValueError, match=r"it gives token \d+ of 1000, segment 7 of 2"):
            try_tokenizer(tokenizer, 1000, 2)


def test_the_files_make_the_same_tokenizer(tiny_teacher: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(tiny_teacher)
    ours = tokenizer_from_files(tokenizer_files(theirs))
    for columns in ([ODD], [ODD, ODD[::-1]]):
        wanted = theirs(*columns, truncation=True, max_length=12, return_token_type_ids=True)
        assert encode(ours, columns, 12).tokens == {name: wanted[name] for name in INPUTS}
    assert ours.all_special_ids == theirs.all_special_ids and len(ours) == len(theirs)
    assert tokenizer_files(ours)["tokenizer.json"] == tokenizer_files(theirs)["tokenizer.json"]


def test_what_is_cut() -> None:
    assert longest({"max_length": 10}, 24) == 10 and longest({"max_length": 99}, 24) == 24 and longest({}, 600) == 512
    for wrong in ("x", -1, None, 2.5, True):
        with pytest.raises(DataError, match="max_length is"):
            longest({"max_length": wrong}, 24)


def test_padding_is_on_the_right_whatever_the_folder_says(copy: Path) -> None:
    change(copy, "tokenizer_config.json", padding_side="left")
    tokenizer = load_tokenizer(str(copy))
    for made in (tokenizer, tokenizer_from_files(tokenizer_files(tokenizer))):
        encoded = encode(made, [["good", "good bad fine"]], 12)
        assert encoded.cut == [False, False]
        assert pad(made, encoded.tokens)["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
        assert made.pad(encoded.tokens)["attention_mask"][0] == [1, 1, 1, 0, 0]
        assert pad(made, encoded.tokens, 7, "np")["input_ids"].shape == (2, 7)


def test_text_that_is_no_text(tiny_teacher: Path) -> None:
    with pytest.raises(DataError, match="is not UTF-8; convert it first"):
        encode(load_tokenizer(str(tiny_teacher)), [["caf\udce9"]], 12)


def test_code_that_a_folder_names_is_not_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers would ask on the terminal, and take the answer from standard input."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    (copy / "evil.py").write_text(f"open({str(copy / 'PWNED')!r}, 'w')\nfrom transformers import BertTokenizer as T")
    change(copy, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="T")
    assert encode(load_tokenizer(str(copy)), [["good"]], 9).tokens["input_ids"] == [[2, 5, 3]]
    files = {name: (copy / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json")}
    tokenizer = tokenizer_from_files(files)
    assert encode(tokenizer, [["good"]], 9).tokens["input_ids"] == [[2, 5, 3]]
    assert "auto_map" not in tokenizer_files(tokenizer)["tokenizer_config.json"]
    (copy / "config.json").unlink()  # which says that it is a BERT: now nothing but the code knows the class
    with pytest.raises(ValueError, match=r"trust_remote_code|config.json"):
        load_tokenizer(str(copy))
    assert not (copy / "PWNED").exists()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{}", "Model missing"),
        ("tokenizer.json", "[" * 100_000, "recursion"),
        ("tokenizer_config.json", "[]", "list"),
        ("tokenizer_config.json", '{"pad_token": 7}', "pad_token is 7, which is no token"),
        ("tokenizer_config.json", '{"pad_token": {"content": 7}}', "str"),
    ],
)
def test_files_that_are_no_tokenizer(tiny_teacher: Path, name: str, content: str, reason: str) -> None:
    files = tokenizer_files(load_tokenizer(str(tiny_teacher)))
    with pytest.raises(DataError, match=reason):
        tokenizer_from_files(files | {name: content})
    with pytest.raises(DataError, match=f"{name} is missing"):
        tokenizer_from_files({other: text for other, text in files.items() if other != name})


def test_an_expression_that_may_match_for_ever(tiny_teacher: Path) -> None:
    files = tokenizer_files(load_tokenizer(str(tiny_teacher)))
    model = json.loads(files["tokenizer.json"])
    for pattern, refused in ((r"(a+)+$", True), (r"(a|aa){2,}", True), (r"(.)\1", True), (r"\s+|\p{L}+", False)):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        changed = files | {"tokenizer.json": json.dumps(model | {"pre_tokenizer": split})}
        if refused:
            with pytest.raises(DataError, match="go on for ever"):
                tokenizer_from_files(changed)
        else:
            tokenizer_from_files(changed)


def test_tokenizers_that_cannot_train(copy: Path) -> None:
    change(copy, "tokenizer_config.json", pad_token=None, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(DataError, match=r"no padding token: name one as pad_token in tokenizer_config\.json"):
        load_tokenizer(str(copy))
    (copy / "tokenizer.json").unlink()
    (copy / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\n")
    kind = {"tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "basic"}
    (copy / "tokenizer_config.json").write_text(json.dumps(kind))
    with pytest.raises(DataError, match=r"BertJapaneseTokenizer\) has no fast form"):
        load_tokenizer(str(copy))


def test_names_of_files_that_are_not_utf8() -> None:
    """They are stored in checkpoints, whose header is UTF-8."""
    assert as_utf8("caf\udce9 é") == "caf? é" and as_utf8("\ud800") == "?"
    plan = TrainingPlan(Path("m.ckpt"), data=Path("caf\udce9"), teacher="t\udce9").to_dict()
    assert plan["data"] == "caf?" and plan["teacher"] == "t?"
