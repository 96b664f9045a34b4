"""The readers of JSON and YAML: any bytes give a value of plain types or one exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_af.documents import DocumentError, parse_json, parse_yaml
from edge_af.errors import EdgeAfError
from edge_af.files import read_json, read_yaml

LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))])
MERGES = "\n".join(["m0: &m0 {a: 1}", *(f"m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}" for i in range(1, 40))])

BAD_JSON = {
    "deep": (b"[" * 100_000, "nested"),
    "deep and whole": (b"[" * 200 + b"]" * 200, "nested more than 64 levels"),
    "deep objects": (b'{"a":' * 200 + b"1" + b"}" * 200, "nested"),
    "digits": (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    "large": (b'{"a": [1, 9223372036854775808]}', r"a\[1\]: a number of more than 64 bits"),
    "NaN": (b"[NaN]", r"\[0\]: nan is not a number"),
    "infinity": (b"[-Infinity]", r"\[0\]: -inf is not a number"),
    "overflow": (b'{"a": 1e999}', "a: inf is not a number"),
    "surrogate": (rb'{"a": "\ud800"}', "half of a surrogate pair"),
    "surrogate key": (rb'{"\udfff": 1}', "half of a surrogate pair"),
    "twice": (b'{"a": 1, "b": 2, "a": 3}', "'a' is given twice"),
    "latin": (b'{"a": "\xe9"}', "utf-8"),
    "cut": (b'{"a": ', "Expecting value"),
    "nothing": (b"", "Expecting value"),
}
BAD_YAML = {
    "deep": (b"[" * 1000, "nested"),
    "date key": (b"2020-01-01: 1\n1: 2", "the key 1 is not text"),
    "tag": (b"a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "binary": (b"a: !!binary aGVsbG8=", "type bytes"),
    "set": (b"a: !!set {x, y}", "type set"),
    "timestamp": (b"a: !!timestamp 2020-01-01", "type date"),
    "bad timestamp": (b"a: !!timestamp 2020-99-01", "month"),
    "no timestamp": (b"a: !!timestamp x", "NoneType"),
    "no integer": (b"a: !!int x", "invalid literal"),
    "no boolean": (b"a: !!bool x", "x"),
    "digits": (b"a: " + b"9" * 5000, "digits"),
    "large": (b"a: 99999999999999999999", "64 bits"),
    "NaN": (b"a: .nan", "nan"),
    "twice": (b"a: {b: 1, b: 2}", "'b' is given twice"),
    "itself": (b"a: &a [*a]", "nested"),
    "laughs": (LAUGHS.encode(), "more than 100,000 values"),
    "merges": (MERGES.encode(), "more than 100,000 values"),
    "unhashable": (b"? [a]\n: 1", "unhashable"),
    "control": (b"a: \x07", "special characters"),
    "latin": (b"a: \xe9", "utf-8"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_json_that_is_refused(tmp_path: Path, case: str) -> None:
    data, reason = BAD_JSON[case]
    with pytest.raises(DocumentError, match=reason):
        parse_json(data)
    (tmp_path / "f.json").write_bytes(data)
    with pytest.raises(EdgeAfError, match=r"f\.json: cannot read this thing: .*"):
        read_json(tmp_path / "f.json", "thing")


@pytest.mark.parametrize("case", BAD_YAML)
def test_yaml_that_is_refused(tmp_path: Path, case: str) -> None:
    data, reason = BAD_YAML[case]
    with pytest.raises(DocumentError, match=reason):
        parse_yaml(data)
    (tmp_path / "f.yaml").write_bytes(data)
    with pytest.raises(EdgeAfError, match=r"f\.yaml: cannot read this thing: ") as error:
        read_yaml(tmp_path / "f.yaml", "thing")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("day: 2020-01-01", {"day": "2020-01-01"}),
        (
            "a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}\ne: {<<: *x}",
            {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 1, "c": 2}},
        ),
        ("[1, 2.5, yes, null, text]", [1, 2.5, True, None, "text"]),
        ("", None),
    ],
)
def test_yaml_that_is_read(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


def test_a_file_name_that_is_not_utf8_comes_back() -> None:
    assert parse_json(rb'{"file": "\udce9.onnx"}') == {"file": "\udce9.onnx"}


def test_a_document_without_end_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    with pytest.raises(EdgeAfError, match="larger than 1 MB"):
        read_yaml(tmp_path / "endless.yaml", "suite")
    with pytest.raises(EdgeAfError, match="is a folder, not a suite"):
        read_yaml(tmp_path, "suite")
