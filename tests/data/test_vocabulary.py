"""Reading class names from CSV files as found in practice."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_af.data.vocabulary import find_vocabulary, read_vocabulary
from edge_af.errors import EdgeAfError


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "v.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "index,name\n0,Game\n2,Concert\n",
        "\ufeffIndex,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl\n2,3,/m/1,Concert,http\n0,788288,/m/0,Game,http\n\n",
        'name , INDEX\n"Game",0\n,1\nConcert,2\n',
    ],
    ids=["ours", "official", "blank name"],
)
def test_columns_are_found_by_name(tmp_path: Path, text: str) -> None:
    assert read_vocabulary(_file(tmp_path, text)).names == ["Game", "", "Concert"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must name the columns"),
        ("number,name\n0,Game\n", "it reads number, name"),
        ("index,name\n", "names no classes"),
        ("index,name\n0,Game\n0,Concert\n", "line 3: index 0 occurs twice"),
        ("index,name\n-1,Game\n", "line 2: index '-1'"),
        ("index,name\n65536,Game\n", "line 2: index '65536'"),
        ("index,name\nzero,Game\n", "line 2: index 'zero'"),
    ],
)
def test_what_is_no_vocabulary_says_why(tmp_path: Path, text: str, message: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(EdgeAfError) as error:
        read_vocabulary(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_bytes(b"index,name\n0,\xff\xfe\n")
    with pytest.raises(EdgeAfError, match="UTF-8"):
        read_vocabulary(tmp_path / "v.csv")
    with pytest.raises(EdgeAfError, match="cannot be read"):
        read_vocabulary(tmp_path)
    with pytest.raises(EdgeAfError, match="no such vocabulary"):
        read_vocabulary(tmp_path / "none.csv")


def test_the_nearest_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    assert find_vocabulary(folder, 2018) is None

    def put(path: Path, name: str) -> None:
        path.write_text(f"index,name\n0,{name}\n")

    def found(year: int) -> list[str]:
        vocabulary = find_vocabulary(folder, year)
        return vocabulary.names if vocabulary else []

    # Two folders up, only the name with the version is accepted.
    put(tmp_path / "a" / "vocabulary.csv", "far")
    assert found(2018) == []
    put(tmp_path / "a" / "vocabulary_2018.csv", "grandparent")
    assert found(2018) == ["grandparent"]
    assert found(2017) == []
    put(tmp_path / "a" / "b" / "vocabulary.csv", "parent")
    assert found(2018) == found(2017) == ["parent"]
    put(folder / "vocabulary_2017.csv", "beside")
    assert found(2017) == ["beside"]
    assert found(2018) == ["parent"]


def test_the_real_vocabularies(yt8m: Path) -> None:
    assert len(read_vocabulary(yt8m / "vocabulary_2018.csv").names) == 3862
    assert len(read_vocabulary(yt8m / "vocabulary_2017.csv").names) == 4716
