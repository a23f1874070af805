"""Rate cards in files of their own, found beside the configuration that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataflows.connections import PlanError, read_settings
from pricing.settings import InvalidSettings

RULE = "{{model: {}, input_rate: 1e-6, output_rate: 1e-6}}"


def write(directory: Path, cards: str, files: dict[str, str]) -> str:
    for name, models in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"rules: [{', '.join(RULE.format(model) for model in models.split())}]", "utf-8")
    config = directory / "meterline.yaml"
    config.write_text(f"pricing: {{cards: {cards}}}", "utf-8")
    return str(config)


@pytest.mark.parametrize(
    ("cards", "models"),
    [
        ("one.yaml", ["a"]),
        ("[one.yaml, more]", ["a", "b", "c", "d"]),
        ("[more/two.yml]", ["d"]),
    ],
)
def test_files_and_directories_are_read_by_name(tmp_path: Path, cards: str, models: list[str]) -> None:
    files = {"one.yaml": "a", "more/one.yaml": "b c", "more/two.yml": "d", "more/notes.txt": "e"}
    config = write(tmp_path, cards, files)
    assert [rule.model for rule in read_settings(config).pricing.rules] == models


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    config = write(tmp_path, f"[{tmp_path}/elsewhere]", {"elsewhere/one.yaml": "a"})
    assert [rule.model for rule in read_settings(config).pricing.rules] == ["a"]


def test_problems_name_the_file_beside_the_configuration(tmp_path: Path) -> None:
    config = write(tmp_path, "more", {"more/one.yaml": "a", "more/two.yaml": "b a"})
    with pytest.raises(InvalidSettings) as caught:
        read_settings(config)
    neither = "and neither is more specific"
    told = f"more/two.yaml rules[1]: applies to the same events as more/one.yaml rules[0], {neither}"
    assert str(caught.value) == told


@pytest.mark.parametrize(
    ("cards", "sentence"),
    [
        ("absent.yaml", "the rate card {}/absent.yaml cannot be read: No such file or directory"),
        ("empty", "the directory {}/empty has no rate card in it: a file that ends in .yaml or .yml"),
        ("bytes.yaml", "the rate card {}/bytes.yaml is not UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, cards: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    with pytest.raises(PlanError) as caught:
        read_settings(write(tmp_path, cards, {}))
    assert str(caught.value) == sentence.format(tmp_path)
