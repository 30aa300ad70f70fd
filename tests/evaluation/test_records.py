"""Records only grow: a stop loses at most the line that was being written."""

import json

import pytest

from lavin.errors import InputError
from lavin.evaluation.records import Records


def test_records_come_back_and_go_on(tmp_path):
    path, protocol = tmp_path / "new" / "records.jsonl", {"steps": 10, "lengths": (0, 1)}
    records = Records(path, protocol)
    records.append([{"query": 0, "value": 0.1}, {"query": 1, "value": None}])
    again = Records(path, protocol)
    assert list(again) == [{"query": 0, "value": 0.1}, {"query": 1, "value": None}]
    again.append([{"query": 2, "value": 3}])
    assert len(Records(path, protocol)) == 3


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_cut_short_is_dropped(tmp_path, cut):
    path = tmp_path / "records.jsonl"
    Records(path, {}).append([{"query": number, "text": "word " * 5} for number in range(3)])
    path.write_bytes(path.read_bytes()[:-cut])
    records = Records(path, {})
    assert [record["query"] for record in records] == [0, 1]
    records.append([{"query": 9}])
    assert [json.loads(line).get("query") for line in path.read_text().splitlines()] == [None, 0, 1, 9]


def test_an_empty_file_is_a_new_one(tmp_path):
    path = tmp_path / "records.jsonl"
    path.touch()
    Records(path, {"steps": 4}).append([{"query": 0}])
    assert len(Records(path, {"steps": 4})) == 1


def test_other_files_stay_as_they_are(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path, {"steps": 10})
    with pytest.raises(InputError, match="records with steps 10, not 20"):
        Records(path, {"steps": 20})
    for content in (b"hello", b"{}\n", b"[1]\n\n", b"\xff\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"records\.jsonl: no file of records"):
            Records(path, {"steps": 10})
        assert path.read_bytes() == content
    with pytest.raises(InputError, match="cannot be read and written"):
        Records(tmp_path, {"steps": 10})
