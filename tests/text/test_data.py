"""Everything committed under data/ is complete and documented."""

import json
import re

import pytest

from mini_moe.text import DOMAINS, data_folder, default_tokenizer
from mini_moe.text.checks import answer_question
from mini_moe.text.checks.tables import read_table

PROMPTS = json.loads((data_folder() / "prompts.json").read_text("utf-8"))


def test_every_domain_has_at_least_four_prompts():
    assert tuple(PROMPTS) == DOMAINS
    assert all(len(set(prompts)) >= 4 for prompts in PROMPTS.values())


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_are_plain_text(domain):
    tokenizer = default_tokenizer()
    for prompt in PROMPTS[domain]:
        assert 3 <= len(tokenizer.encode(prompt)) <= 120


def test_questions_about_tables_have_answers():
    for prompt in PROMPTS["tables"]:
        _, table, question = prompt.split("\n\n")
        asked = question.removeprefix("Q: ").removesuffix("\nA:")
        assert answer_question(read_table(table), asked)


def test_the_datasheet_names_every_committed_file():
    sheet = (data_folder() / "README.md").read_text("utf-8")
    for name in ("vocabulary.json", "verbs.json", "word_problems.json", "topics.json"):
        assert name in sheet
    assert "prompts.json" in sheet and "tokenizer.json" in sheet
    n_plots = len(list((data_folder() / "stories" / "plots").glob("*.json")))
    assert f"{n_plots} plots" in sheet


def test_the_datasheet_adds_up():
    sheet = (data_folder() / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (`?\w+`?) \| ([\d, /]+) \| ([\d, /]+) \| ([\d, /]+) \|", sheet, re.M)
    rows = {name.strip("`"): cells for name, *cells in rows}
    assert tuple(rows) == (*DOMAINS, "all")
    numbers = {name: [[int(n.replace(",", "")) for n in cell.split(" / ")] for cell in cells]
               for name, cells in rows.items()}  # fmt: skip
    for column in range(3):
        for side in range(2):
            total = sum(numbers[name][column][side] for name in DOMAINS)
            assert total == numbers["all"][column][side]


def test_built_files_are_ignored_by_git():
    ignored = (data_folder() / ".gitignore").read_text("utf-8").split()
    assert {"corpus/", "downloads/", ".corpus-*"} <= set(ignored)
