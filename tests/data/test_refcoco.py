"""Miniatures of RefCOCO's files: a pickle as Python 2 wrote it, COCO's instances, photos of other folders' names."""

import json
import os
import pickle
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from lavin.data.public import open_dataset
from lavin.data.refcoco import held_out_photos
from lavin.data.references import load_plain
from lavin.errors import InputError

WIDTH, HEIGHT = 60, 40
PHOTOS = {581857: (200, 20, 20), 9: (20, 200, 20), 77: (20, 20, 200)}
RUNS = [WIDTH * HEIGHT - 100, 100]
"""Run lengths of a mask of the last 100 pixels, column by column."""
OBJECTS = [
    {
        "id": 1719310,
        "image_id": 581857,
        "category_id": 18,
        "bbox": [10, 5, 30, 30],
        "segmentation": [[10, 5, 20, 5, 20, 35, 10, 35], [30, 5, 40, 5, 40, 35, 30, 35], [1, 1, 2, 2]],
    },
    {"id": 2, "image_id": 581857, "category_id": 18, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]]},
    {
        "id": 3,
        "image_id": 9,
        "category_id": 1,
        "iscrowd": 1,
        "bbox": [57, 0, 3, 40],
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": RUNS},
    },
    {"id": 4, "image_id": 77, "category_id": 90, "bbox": [5, 5, 9, 9], "segmentation": []},
]
SPLITS = {581857: "val", 9: "testA", 77: "train"}


def references():
    texts = {1719310: ["the two striped dogs", "dogs left"], 3: ["crowd at the café"], 4: ["brush"]}
    found = []
    for number, (ann_id, sentences) in enumerate(texts.items()):
        image_id = next(one["image_id"] for one in OBJECTS if one["id"] == ann_id)
        said = [
            {"sent_id": 10 * number + i, "sent": text, "raw": text.upper(), "tokens": text.split()}
            for i, text in enumerate(sentences)
        ]
        found.append(
            {
                "ref_id": 50 + number,
                "ann_id": ann_id,
                "image_id": image_id,
                "category_id": 18,
                "split": SPLITS[image_id],
                "sentences": said,
                "sent_ids": [one["sent_id"] for one in said],
                "file_name": f"COCO_train2014_{image_id:012}_{ann_id}.jpg",
            }
        )
    return found


def instances():
    return {
        "images": [
            {"id": number, "file_name": f"COCO_train2014_{number:012}.jpg", "height": HEIGHT, "width": WIDTH}
            for number in PHOTOS
        ],
        "annotations": OBJECTS,
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}],
    }


def write(root, name="refcoco", by="unc", protocol=0, photos="train2014", year=2014):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / f"refs({by}).p").write_bytes(pickle.dumps(references(), protocol))
    (folder / "instances.json").write_text(json.dumps(instances()))
    (root / photos).mkdir(parents=True, exist_ok=True)
    for number, colour in PHOTOS.items():
        stem = f"COCO_train2014_{number:012}" if year == 2014 else f"{number:012}"
        Image.new("RGB", (WIDTH, HEIGHT), colour).save(root / photos / f"{stem}.jpg", quality=100)
    return root


def drawn(annotation):
    """The mask by Pillow, inside the polygons' corners, which are whole here."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for polygon in annotation["segmentation"]:
        if len(polygon) >= 6:
            x, y = polygon[0::2], polygon[1::2]
            mask[min(y) : max(y), min(x) : max(x)] = True
    return mask


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize(("photos", "year"), [("train2014", 2014), ("images/train2014", 2014), ("train2017", 2017)])
def test_every_expression_is_a_sample_whose_first_instance_is_meant(tmp_path, protocol, photos, year):
    data = open_dataset("refcoco", write(tmp_path, protocol=protocol, photos=photos, year=year))
    assert data.names == ["50/0", "50/1"]
    assert [sample.instances[0].expressions for sample in data] == [["the two striped dogs"], ["dogs left"]]
    for sample in data:
        assert np.abs(sample.clip.float().mean((0, 1, 2)).numpy() - PHOTOS[581857]).max() < 3
        meant, other = sample.instances
        assert (meant.class_name, meant.track_id, other.track_id) == ("dog", 1719310, 2)
        assert data.vocabulary.things[meant.class_id] == "dog" and other.expressions == []
        assert np.array_equal(meant.mask[0].numpy(), drawn(OBJECTS[0]))  # the union of both polygons
        assert meant.box.tolist() == [[10, 5, 40, 35]]


def test_crowds_are_run_lengths_and_texts_may_have_accents(tmp_path):
    (sample,) = open_dataset("refcoco", write(tmp_path), "testA")
    (crowd,) = sample.instances
    assert crowd.crowd and crowd.expressions == ["crowd at the café"] and crowd.class_name == "person"
    expected = np.zeros(WIDTH * HEIGHT, bool)
    expected[-100:] = True
    assert np.array_equal(crowd.mask[0].numpy(), expected.reshape(WIDTH, HEIGHT).T)


def test_compressed_run_lengths_are_read_too(tmp_path):
    mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    packed = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    content = instances()
    content["annotations"][2] = OBJECTS[2] | {
        "segmentation": {"size": packed["size"], "counts": packed["counts"].decode()}
    }
    root = write(tmp_path)
    (root / "refcoco/instances.json").write_text(json.dumps(content))
    (sample,) = open_dataset("refcoco", root, "testA")
    assert np.array_equal(sample.instances[0].mask[0].numpy(), mask)


def test_an_object_without_corners_has_no_pixels(tmp_path):
    (sample,) = open_dataset("refcoco", write(tmp_path), "train")
    assert not sample.instances[0].mask.any()


@pytest.mark.parametrize(("name", "by"), [("refcoco+", "unc"), ("refcocog", "umd")])
def test_the_three_sets_have_folders_and_splitters_of_their_own(tmp_path, name, by):
    root = write(tmp_path, name, by)
    assert [sample.dataset for sample in open_dataset(name, root, "validation")] == [name, name]
    assert len(open_dataset(name, root / name, photos=root / "train2014")) == 2
    with pytest.raises(InputError, match=r"no .*refs\(google\)\.p; .* needs .*refs\(google\)\.p,instances\.json"):
        open_dataset(name, root, by="google")


# --- The pickle -------------------------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_something_is_refused(tmp_path, protocol):
    root = write(tmp_path)
    path = root / "refcoco/refs(unc).p"
    path.write_bytes(pickle.dumps([*references(), Bomb(tmp_path / "run")], protocol))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: .*it names \w+\.mkdir"):
        open_dataset("refcoco", root)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [np.float64(1), {1, 2}, range(3), slice(1)], ids=repr)
def test_only_plain_data_is_made(tmp_path, value):
    """Sets too need a name, in the protocols that Python 2 wrote."""
    (tmp_path / "refs").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(InputError, match="it names"):
        load_plain(tmp_path / "refs")


def test_plain_data_comes_back_whole(tmp_path):
    content = [{"a": [1, 2**70, -0.5], "b": ("é", None, True), "c": {}}]
    for protocol in range(5):
        (tmp_path / "refs").write_bytes(pickle.dumps(content, protocol))
        assert load_plain(tmp_path / "refs") == content


def test_bytes_of_python_2_are_texts(tmp_path):
    """As Python 2 pickled ``'dog'``, and a text whose bytes are no UTF-8."""
    (tmp_path / "refs").write_bytes(b"(lp0\nS'dog'\np1\naS'caf\\xe9'\np2\na.")
    assert load_plain(tmp_path / "refs") == ["dog", "caf\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(references())[:-40]])
def test_a_damaged_pickle_is_named(tmp_path, content):
    root = write(tmp_path)
    (root / "refcoco/refs(unc).p").write_bytes(content)
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: cannot be read as a pickle"):
        open_dataset("refcoco", root)


@pytest.mark.parametrize("content", [[{"ref_id": 1}], {"a": 1}, 5, [{**references()[0], "sentences": [3]}]])
def test_a_pickle_of_something_else_is_named(tmp_path, content):
    root = write(tmp_path)
    (root / "refcoco/refs(unc).p").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r"refs\(unc\)\.p: holds no references"):
        open_dataset("refcoco", root)


def test_the_pickle_is_read_once_and_again_when_it_changes(tmp_path, monkeypatch):
    root = write(tmp_path)
    path = root / "refcoco/refs(unc).p"
    first = open_dataset("refcoco", root).names
    monkeypatch.setattr("lavin.data.references.load_plain", None)
    assert open_dataset("refcoco", root).names == first  # from refs(unc).p.json
    monkeypatch.undo()
    kept = path.with_name("refs(unc).p.json")
    kept.write_text("{broken")
    assert open_dataset("refcoco", root).names == first
    changed = references()
    changed[0]["sentences"] = changed[0]["sentences"][:1]
    path.write_bytes(pickle.dumps(changed))
    assert open_dataset("refcoco", root).names == first[:1]
    kept.unlink()
    kept.mkdir()  # nothing can be written there
    assert open_dataset("refcoco", root).names == first[:1]


# --- Leaks, and what can be wrong -------------------------------------------------------------------------------------


def test_photos_that_any_set_tests_on_are_listed(tmp_path):
    write(tmp_path)
    assert held_out_photos(tmp_path) == [9, 581857]
    write(tmp_path, "refcocog", "umd")
    changed = [one | {"split": "test"} for one in references()]
    (tmp_path / "refcocog/refs(umd).p").write_bytes(pickle.dumps(changed))
    assert held_out_photos(tmp_path) == [9, 77, 581857]
    with pytest.raises(InputError, match=r"no refcoco/refs\(unc\)\.p"):
        held_out_photos(tmp_path / "train2014")


def test_what_is_missing_is_named(tmp_path):
    root = write(tmp_path)
    with pytest.raises(InputError, match="unknown split of refcoco 'testC'; did you mean 'test"):
        open_dataset("refcoco", root, "testC")
    (root / "train2014/COCO_train2014_000000581857.jpg").unlink()
    with pytest.raises(InputError, match=r"1 of the files listed are missing, the first is .*000000581857\.jpg"):
        open_dataset("refcoco", root)
    (root / "train2014").rename(root / "photos")
    with pytest.raises(InputError, match="no folder of COCO's photos; give photos=DIR; refcoco needs"):
        open_dataset("refcoco", root)
    assert len(open_dataset("refcoco", root, "testA", photos=root / "photos")) == 1
    with pytest.raises(InputError, match=r"no .*nowhere"):
        open_dataset("refcoco", root, photos=root / "nowhere")
    (root / "refcoco/instances.json").unlink()
    with pytest.raises(InputError, match=r"no refcoco.instances\.json"):
        open_dataset("refcoco", root)


def spoil(content, what):
    if what == "no photo":
        content["images"] = content["images"][1:]
    elif what == "no object":
        content["annotations"] = content["annotations"][1:]
    elif what == "no list":
        del content["categories"]
    return content


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no photo", "1 photos of the references are missing, the first is 581857"),
        ("no object", r"photo 581857 has no object 1719310, which .*refs\(unc\)\.p names"),
        ("no list", "cannot be read as COCO's instances"),
    ],
)
def test_instances_that_contradict_the_references_are_named(tmp_path, what, message):
    root = write(tmp_path)
    (root / "refcoco/instances.json").write_text(json.dumps(spoil(instances(), what)))
    with pytest.raises(InputError, match=rf"instances\.json: {message}"):
        open_dataset("refcoco", root)


@pytest.mark.parametrize(
    "spoilt",
    [{"segmentation": {"size": [3, 3], "counts": [9]}}, {"segmentation": 7}, {"bbox": [1]}, {"category_id": 5}],
    ids=repr,
)
def test_a_damaged_object_is_named_when_it_is_read(tmp_path, spoilt):
    content = instances()
    content["annotations"] = [content["annotations"][0] | spoilt, *content["annotations"][1:]]
    root = write(tmp_path)
    (root / "refcoco/instances.json").write_text(json.dumps(content))
    data = open_dataset("refcoco", root)
    with pytest.raises(InputError, match=r"instances\.json: object 1719310 is damaged"):
        data[0]


def test_a_photo_of_another_size_is_named(tmp_path):
    root = write(tmp_path)
    Image.new("RGB", (HEIGHT, WIDTH)).save(root / "train2014/COCO_train2014_000000581857.jpg")
    with pytest.raises(InputError, match=r"000000581857\.jpg: is 40x60 but instances\.json says 60x40"):
        open_dataset("refcoco", root)[0]


def test_without_pycocotools_the_masks_say_so(tmp_path, monkeypatch):
    data = open_dataset("refcoco", write(tmp_path))
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(InputError, match="pycocotools draws COCO's masks, but is not installed: pip install"):
        data[0]
